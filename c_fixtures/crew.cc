// A C++ program with threads: each fills containers of its own, and throws and catches, while the others do the same.
//
// Each has an arena of its own and the threshold for mappings is fixed, so that what one does is the same in each run.
#include "fixture.h"

#include <condition_variable>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

enum { THREADS = 4 };

// Lets nobody pass before all are there: no thread gets the arena of one that has ended.
class meeting {
public:
    void wait()
    {
        std::unique_lock<std::mutex> lock(mutex);
        if (++there == THREADS)
            all.notify_all();
        all.wait(lock, [this] { return there == THREADS; });
    }

private:
    std::mutex mutex;
    std::condition_variable all;
    int there = 0;
};

static meeting start, over;

static void work(int number)
{
    start.wait();
    {
        std::map<std::string, std::vector<int>> table;
        std::vector<std::string> words;

        for (int i = 0; i < 3000; i++) {
            words.push_back(std::string(40 + i % 90, 'a' + number) + std::to_string(i));
            if (i % 3 == 0)
                table[words.back()] = std::vector<int>(i % 200, i);
            try {
                if (i % 1000 == 0)
                    throw std::runtime_error(words.back());
            } catch (const std::exception &) {
                table.erase(words.front());
            }
        }
        delete[] new double[100000 + 1000 * number];
    }
    over.wait();
}

int main()
{
    std::vector<std::thread> threads;

    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    for (int i = 0; i < THREADS; i++)
        threads.emplace_back(work, i);
    for (std::thread &thread : threads)
        thread.join();
    stop_here();
    return 0;
}
