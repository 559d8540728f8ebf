// What a C++ program's heap holds: strings, a vector that grew, a map's nodes, objects from new, and the pool that
// libstdc++ takes before main for throwing when memory is short.
#include "fixture.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

struct shape {
    virtual ~shape() = default;
    virtual double area() const = 0;
};

struct square : shape {
    explicit square(double side) : side(side) {}
    double area() const override { return side * side; }
    double side;
};

int main()
{
    std::vector<std::string> words;
    std::map<std::string, std::vector<int>> table;
    std::vector<std::unique_ptr<shape>> shapes;

    for (int i = 0; i < 20000; i++)
        words.push_back("a word that is too long to stand inside the string itself, number " + std::to_string(i));
    for (int i = 0; i < 2000; i++)
        table[words[i * 7]] = std::vector<int>(i % 100, i);
    for (int i = 0; i < 1000; i++)
        shapes.push_back(std::make_unique<square>(i));
    double *numbers = new double[100000];
    stop_here();
    delete[] numbers;
    return shapes.back()->area() < 0;
}
