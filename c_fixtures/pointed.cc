/* C++ objects that variables of all kinds point to: what answers depend on in GDB's own reading of a program. */
#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

struct Shape {
    virtual ~Shape() {}
    virtual double area() const = 0;
    int id = 0;
};

struct Circle : Shape {
    double radius = 1;
    double area() const override { return radius; }
};

char *first;
static std::vector<Shape *> shapes;
static std::map<int, std::string> names;
static thread_local void *mine;

extern "C" __attribute__((noinline)) void stop_here()
{
    asm volatile("");
}

static __attribute__((noinline)) void inner(Shape *shape, int depth)
{
    char *local = static_cast<char *>(malloc(100 + depth));

    strcpy(local, "local text");
    if (depth > 0)
        inner(shape, depth - 1);
    else
        stop_here();
    free(local);
}

int main()
{
    first = static_cast<char *>(malloc(200000));
    strcpy(first, "first");
    mine = malloc(77);
    for (int i = 0; i < 20; i++) {
        shapes.push_back(new Circle);
        names[i] = "a name that is long enough to be on the heap";
    }
    free(malloc(3000));
    free(malloc(24));
    inner(shapes[0], 4);
    return 0;
}
