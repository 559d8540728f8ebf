// Objects of several classes in known numbers: in a namespace, from a template, with two bases, with a virtual base, in
// an anonymous namespace, from a library; some deleted again, and things that are no objects between them.
#include "fixture.h"

#include <sstream>
#include <string>
#include <vector>

namespace zoo {

struct animal {
    virtual ~animal() = default;
    virtual int legs() const { return 4; }
    long weight = 1;
};

struct bird : animal {
    int legs() const override { return 2; }
    long wings[10] = {};
};

struct swimmer {
    virtual ~swimmer() = default;
    long depth = 3;
};

struct duck : bird, swimmer {
    long quacks = 5;
};

template <typename T> struct cage : animal {
    T content{};
};

struct registered : virtual animal {
    long number = 7;
};

} // namespace zoo

namespace {
struct hidden {
    virtual ~hidden() = default;
    long secret = 9;
};
} // namespace

enum { ANIMALS = 50, BIRDS = 70, DUCKS = 11, CAGES = 13, REGISTERED = 17, HIDDEN = 19, STREAMS = 3, PLAIN = 40, GONE = 20 };

// What the test compares with: how many there are of each, and their bytes as malloc_usable_size has them.
struct known {
    const char *name;
    int count;
    size_t usable;
} known[16];
int known_count;

static std::vector<void *> kept;

template <typename T> static void make(const char *name, int count)
{
    known[known_count] = {name, count, 0};
    for (int i = 0; i < count; i++) {
        T *object = new T;
        known[known_count].usable += malloc_usable_size(dynamic_cast<void *>(object));
        kept.push_back(dynamic_cast<void *>(object));
    }
    known_count++;
}

int main(int argc, char **argv)
{
    std::vector<zoo::animal *> gone;

    (void)argv;
    make<zoo::animal>("zoo::animal", ANIMALS);
    make<zoo::bird>("zoo::bird", BIRDS);
    for (int i = 0; i < GONE; i++)
        gone.push_back(new zoo::bird);
    make<zoo::duck>("zoo::duck", DUCKS);
    make<zoo::cage<int>>("zoo::cage<int>", CAGES);
    make<zoo::registered>("zoo::registered", REGISTERED);
    make<hidden>("(anonymous namespace)::hidden", HIDDEN);
    make<std::ostringstream>("std::__cxx11::basic_ostringstream<char, std::char_traits<char>, std::allocator<char> >",
                             STREAMS);
    for (int i = 0; i < PLAIN; i++)
        kept.push_back(calloc(1, 80));
    for (zoo::animal *animal : gone)
        delete animal;
    stop_here();
    if (argc > 1)
        abort();
    return 0;
}
