// Drives the kernels as the package does: many threads read, and one writes or resizes at a time.
//
//     sanitized SEED TURNS
//
// It is compiled with a sanitizer, which ends the program at a fault. The buffers are as long as they
// have to be and no longer, so that a read past their end is seen. What GCC makes of OpenMP is run by
// the threads below: those of libgomp are not compiled with the sanitizer, which then sees races
// where there are none.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <thread>
#include <vector>

extern "C" {
void rarememory_nearest(const float*, int64_t, const float*, int64_t, int64_t, const bool*, int64_t,
                        float, int, int64_t*);
void rarememory_code(const float*, int64_t, int64_t, const int64_t*, int64_t, uint8_t*, float*,
                     float*, int);
int64_t rarememory_nearest_coded(const float*, int64_t, const float*, int64_t, int64_t,
                                 const uint8_t*, const float*, const float*, const bool*, int64_t,
                                 float, int, const int64_t*, int64_t, int64_t*);
void rarememory_nearest_pair(const float*, int64_t, const float*, int64_t, int64_t, const int64_t*,
                             const int64_t*, float, int, int64_t*, int64_t*);
void rarememory_evict_oldest(const int64_t*, const int64_t*, int64_t, int64_t, double, double,
                             int64_t, const int64_t*, int64_t, int64_t, int64_t*);
void rarememory_write(float*, int64_t, int64_t*, int64_t*, int64_t*, const float*, const int64_t*,
                      int64_t, const int64_t*, const bool*, const bool*, const int64_t*, int64_t,
                      double, int64_t*, int64_t*);
void rarememory_score(const float*, int64_t, const float*, int64_t, const int64_t*, int64_t, int,
                      float*);
}

// OpenMP

namespace {

struct Team {
    std::mutex mutex;
    std::condition_variable all_here;
    int size, waiting = 0, round = 0;

    void wait() {
        std::unique_lock<std::mutex> lock(mutex);
        const int mine = round;
        if (++waiting == size) {
            waiting = 0, ++round;
            all_here.notify_all();
        }
        all_here.wait(lock, [&] { return round != mine; });
    }
};

thread_local Team* team = nullptr;
thread_local int place = 0;
std::atomic<int> teams{0};  // of more than one thread, so far

}  // namespace

extern "C" {
int omp_get_thread_num() { return place; }
int omp_get_num_threads() { return team ? team->size : 1; }
void GOMP_barrier() {
    if (team) team->wait();
}
void GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned) {
    Team mine;
    mine.size = threads ? int(threads) : 1;
    if (mine.size > 1) ++teams;
    std::vector<std::thread> others;
    auto run = [&](int number) {
        Team* const before = team;
        const int place_before = place;
        team = &mine, place = number;
        work(data);
        team = before, place = place_before;
    };
    for (int number = 1; number < mine.size; ++number) others.emplace_back(run, number);
    run(0);
    for (std::thread& other : others) other.join();
}
}

// The memory

namespace {

constexpr int64_t EMPTY = -1, GROUP = 64;
constexpr int OMP_THREADS = 2, READERS = 4, ROWS = 9;
using Random = std::mt19937_64;

template <class T>
struct Buffer {
    std::unique_ptr<T[]> numbers;
    int64_t size = 0;
    explicit Buffer(int64_t size = 0, T value = T()) : numbers(new T[size]), size(size) {
        std::fill_n(numbers.get(), size, value);
    }
    T* data() const { return numbers.get(); }
    T& operator[](int64_t i) const { return numbers[i]; }
};

Buffer<float> units(int64_t rows, int64_t dim, Random& random) {
    std::normal_distribution<float> normal;
    Buffer<float> made(rows * dim);
    for (int64_t row = 0; row < rows; ++row) {
        double squares = 0;
        for (int64_t d = 0; d < dim; ++d) {
            made[row * dim + d] = normal(random);
            squares += double(made[row * dim + d]) * made[row * dim + d];
        }
        for (int64_t d = 0; d < dim; ++d) made[row * dim + d] /= float(std::sqrt(squares));
    }
    return made;
}

/// Slots: few, or enough for a team of threads.
int64_t some_size(Random& random) { return 1 + random() % (random() % 4 ? 700 : 9000); }

struct Memory {
    int64_t slots, dim, clock = 0;
    Buffer<float> keys, steps, off;
    Buffer<int64_t> values, written;
    Buffer<uint8_t> bytes;
    std::shared_mutex mutex;

    Memory(int64_t slots, int64_t dim, Random& random) : dim(dim) { resize(slots, random); }

    /// Another number of slots, in other buffers.
    void resize(int64_t size, Random& random) {
        slots = size;
        keys = units(slots, dim, random);
        values = Buffer<int64_t>(slots), written = Buffer<int64_t>(slots);
        for (int64_t slot = 0; slot < slots; ++slot) values[slot] = slot % 5 ? slot % 7 : EMPTY;
        const int64_t padded = (slots + GROUP - 1) / GROUP * GROUP;
        bytes = Buffer<uint8_t>(padded * ((dim + 3) / 4 * 4), 128);
        steps = Buffer<float>(padded), off = Buffer<float>(padded);
        code(nullptr, slots);
    }

    void code(const int64_t* named, int64_t count) {
        rarememory_code(keys.data(), slots, dim, named, count, bytes.data(), steps.data(),
                        off.data(), OMP_THREADS);
    }

    void read(Random& random) {
        std::shared_lock<std::shared_mutex> lock(mutex);
        const int64_t batch = random() % 3 ? 1 : ROWS, k = std::min<int64_t>(slots, 1 + random() % 40);
        const float tolerance = float(dim + 10) * 0x1p-23f;
        Buffer<float> queries = units(batch, dim, random), scores(batch * k);
        Buffer<bool> occupied(slots);
        for (int64_t slot = 0; slot < slots; ++slot) occupied[slot] = values[slot] != EMPTY;
        Buffer<int64_t> found(batch * k), other(batch * k), labels(batch), positive(batch),
            negative(batch), sampled(2, int64_t(random() % slots));
        for (int64_t row = 0; row < batch; ++row) labels[row] = random() % 7;
        rarememory_nearest(queries.data(), batch, keys.data(), slots, dim, occupied.data(), k,
                           tolerance, OMP_THREADS, found.data());
        const int64_t missed = rarememory_nearest_coded(
            queries.data(), batch, keys.data(), slots, dim, bytes.data(), steps.data(), off.data(),
            occupied.data(), k, tolerance, OMP_THREADS, sampled.data(), sampled.size, other.data());
        for (int64_t row = 0; row < batch; ++row) {
            std::sort(&found[row * k], &found[row * k] + k);
            std::sort(&other[row * k], &other[row * k] + k);
        }
        if (missed < 0 || !std::equal(found.data(), found.data() + found.size, other.data())) {
            std::puts("codes changed an answer");
            std::exit(3);
        }
        rarememory_score(queries.data(), batch, keys.data(), dim, found.data(), k, OMP_THREADS,
                         scores.data());
        rarememory_nearest_pair(queries.data(), batch, keys.data(), slots, dim, values.data(),
                                labels.data(), tolerance, OMP_THREADS, positive.data(),
                                negative.data());
    }

    void write(Random& random) {
        std::unique_lock<std::shared_mutex> lock(mutex);
        if (random() % 8 == 0) return resize(some_size(random), random);
        const int64_t batch = std::min<int64_t>(slots, 1 + random() % ROWS);
        Buffer<float> queries = units(batch, dim, random);
        Buffer<int64_t> labels(batch), nearest(batch, EMPTY), free(batch, EMPTY), slots_of(batch),
            overwritten(batch);
        Buffer<bool> averaged(batch, false), inserted(batch, true);
        for (int64_t row = 0; row < batch; ++row) {
            labels[row] = random() % 7;
            const int64_t slot = random() % slots;
            if (values[slot] == EMPTY || random() % 2) continue;
            nearest[row] = slot, labels[row] = values[slot];
            averaged[row] = true, inserted[row] = false;
        }
        rarememory_evict_oldest(values.data(), written.data(), clock, int64_t(random()), 1.0, 0.5,
                                slots, nearest.data(), batch, batch, free.data());
        rarememory_write(keys.data(), dim, values.data(), written.data(), &clock, queries.data(),
                         labels.data(), batch, nearest.data(), averaged.data(), inserted.data(),
                         free.data(), batch, 1e-12, slots_of.data(), overwritten.data());
        code(slots_of.data(), batch);
    }
};

}  // namespace

int main(int count, char** arguments) {
    const uint64_t seed = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 0;
    const int turns = count > 2 ? std::atoi(arguments[2]) : 20;
    Random random(seed);
    Memory memory(some_size(random), 1 + random() % 80, random);
    std::vector<std::thread> threads;
    auto repeat = [&](uint64_t own, void (Memory::*what)(Random&)) {
        Random mine(seed * 64 + own);
        for (int turn = 0; turn < turns; ++turn) (memory.*what)(mine);
    };
    for (uint64_t own = 0; own < READERS; ++own) threads.emplace_back(repeat, own, &Memory::read);
    for (uint64_t own = 0; own < 2; ++own)
        threads.emplace_back(repeat, READERS + own, &Memory::write);
    for (std::thread& thread : threads) thread.join();
    std::printf("done with %d teams\n", teams.load());
}
