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

#include "sanitized.h"

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

constexpr int64_t EMPTY = -1, GROUP = 64, BLOCK = 100;
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

void check(bool right, const char* otherwise) {
    if (right) return;
    std::puts(otherwise);
    std::exit(3);
}

template <class T>
bool same(const Buffer<T>& one, const Buffer<T>& other) {
    return std::equal(one.data(), one.data() + one.size, other.data());
}

/// Near to each other, or far apart.
Buffer<int64_t> two_labels(Random& random) {
    Buffer<int64_t> labels(2, 1);
    labels[1] = random() % 2 ? 5 : int64_t(1) << 40;
    return labels;
}

/// Many, some or few.
Buffer<bool> some_marks(int64_t size, Random& random) {
    const uint64_t one_of[] = {2, 6, 100}, chosen = one_of[random() % 3];
    Buffer<bool> marks(size);
    for (int64_t i = 0; i < size; ++i) marks[i] = random() % chosen == 0;
    return marks;
}

/// What a read writes.
struct Found {
    Buffer<float> units, scores;
    Buffer<int64_t> slots, values;

    Found(int64_t rows, int64_t k, int64_t dim)
        : units(rows * dim), scores(rows * k), slots(rows * k), values(rows * k) {}
    bool operator==(const Found& other) const {
        return same(slots, other.slots) && same(scores, other.scores) && same(values, other.values);
    }
};

/// The labels, and what a read of pairs writes.
struct Pairs {
    Buffer<int64_t> labels, slots, values;
    Buffer<float> units, scores, keys, slopes, gradient, loss;

    Pairs(int64_t rows, int64_t dim, Random& random)
        : labels(rows), slots(2 * rows), values(2 * rows), units(rows * dim),
          scores(2 * rows), keys(2 * rows * dim), slopes(2 * rows), gradient(rows * dim), loss(1) {
        for (int64_t row = 0; row < rows; ++row) labels[row] = random() % 7;
    }

    bool operator==(const Pairs& other) const {
        return same(slots, other.slots) && same(gradient, other.gradient) && same(loss, other.loss);
    }
};

/// Slots: few, or enough for a team of threads.
int64_t some_size(Random& random) { return 1 + random() % (random() % 4 ? 700 : 9000); }

struct Memory {
    int64_t slots, dim, clock = 0;
    Buffer<float> keys, steps, off;
    Buffer<int64_t> values, written;
    Buffer<uint8_t> bytes, rows;
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
        rows = Buffer<uint8_t>(slots * ((dim + 63) / 64 * 64));
        steps = Buffer<float>(padded), off = Buffer<float>(padded);
        code(nullptr, slots);
    }

    void code(const int64_t* named, int64_t count) {
        rarememory_code(keys.data(), slots, dim, named, count, bytes.data(), steps.data(),
                        off.data(), rows.data(), OMP_THREADS);
    }

    void read(Random& random) {
        std::shared_lock<std::shared_mutex> lock(mutex);
        const int64_t batch = random() % 3 ? 1 : ROWS, k = std::min<int64_t>(slots, 1 + random() % 40);
        const float tolerance = float(dim + 10) * 0x1p-23f;
        Buffer<float> queries = units(batch, dim, random);
        Buffer<int64_t> sampled(2, int64_t(random() % slots));
        // Of all slots, or of those that labels or a mask leave.
        const Buffer<int64_t> labels = two_labels(random);
        const Buffer<bool> mask = some_marks(slots, random);
        const int64_t count = random() % 2 ? labels.size : -1;
        const bool* masked = random() % 2 ? mask.data() : nullptr;
        Found plain(batch, k, dim), coded(batch, k, dim);
        auto read = [&](bool with_codes, Found& found) {
            return rarememory_read(
                queries.data(), batch, keys.data(), slots, dim, with_codes ? bytes.data() : nullptr,
                steps.data(), off.data(), rows.data(), values.data(), labels.data(), count, masked,
                k, tolerance, OMP_THREADS, sampled.data(), sampled.size, found.units.data(),
                found.slots.data(), found.scores.data(), found.values.data());
        };
        check(read(false, plain) == 0 && read(true, coded) >= 0, "a read failed");
        check(plain == coded, "codes changed an answer");
        const Buffer<bool> marks(slots);
        rarememory_mark(values.data(), slots, labels.data(), count, masked, OMP_THREADS,
                        marks.data());
        Found searched(batch, k, dim);
        check(rarememory_nearest_coded(
                  plain.units.data(), batch, keys.data(), slots, dim, bytes.data(), steps.data(),
                  off.data(), rows.data(), marks.data(), k, tolerance, OMP_THREADS, sampled.data(),
                  sampled.size, searched.slots.data()) >= 0, "a search failed");
        rarememory_rank(plain.units.data(), batch, keys.data(), dim, values.data(),
                        searched.slots.data(), k, OMP_THREADS, searched.scores.data(),
                        searched.values.data());
        check(same(searched.slots, plain.slots), "a search found others");
        Buffer<float> scores(batch * k), of_them(batch * dim);
        rarememory_score(plain.units.data(), batch, keys.data(), dim, plain.slots.data(), k,
                         OMP_THREADS, scores.data());
        check(same(scores, plain.scores), "a score is another one");
        rarememory_normalize(queries.data(), batch, dim, of_them.data());
        check(same(of_them, plain.units), "a length is another one");
        Pairs pairs(batch, dim, random), coded_pairs(batch, dim, random);
        auto read_pair = [&](bool with_codes, Pairs& found) {
            return rarememory_read_pair(
                queries.data(), batch, keys.data(), slots, dim, with_codes ? bytes.data() : nullptr,
                steps.data(), off.data(), values.data(), pairs.labels.data(), 0.1f, tolerance,
                OMP_THREADS, sampled.data(), sampled.size, found.units.data(), found.slots.data(),
                found.scores.data(), found.values.data(), found.keys.data(), found.slopes.data(),
                found.gradient.data(), found.loss.data());
        };
        check(read_pair(false, pairs) == 0 && read_pair(true, coded_pairs) >= 0,
              "a pair was not read");
        check(pairs == coded_pairs, "codes changed a pair");
        read_among(queries, k, tolerance, random);
        answer(queries, random);
    }

    /// A classifier's answers: logits of classes by a discriminant, blended with those of a host.
    void answer(const Buffer<float>& queries, Random& random) {
        const int64_t batch = queries.size / dim, axes = 1 + random() % dim;
        const int64_t classes = 1 + random() % 9, all = classes + random() % 4;
        const Buffer<float> origins = units(2, dim, random), metric = units(dim, axes, random),
                            linear = units(2 * axes, classes, random),
                            added = units(2, classes, random), answers = units(batch, 3, random),
                            weights(4, 0.5f);
        const Buffer<float> precision(axes, 2.0f);
        Buffer<float> logits(batch * classes), z(batch * (all + 1));
        Buffer<int64_t> columns(classes), host_columns(3), likeliest(batch);
        for (int64_t i = 0; i < classes; ++i) columns[i] = i;
        // Beyond all classes: a class of the host that is forgotten.
        for (int64_t i = 0; i < 3; ++i) host_columns[i] = std::min(classes + i, all);
        const float* precise = axes < dim ? precision.data() : nullptr;
        const float* change = random() % 2 ? linear.data() + axes * classes : nullptr;
        const float *more = added.data() + classes, *offsets = random() % 2 ? more : nullptr;
        const bool by_roots = random() % 2;
        const int64_t done = rarememory_discriminate(
            queries.data(), batch, dim, by_roots, origins.data(), origins.data() + dim,
            metric.data(), axes, precise, 0.5f, linear.data(), added.data(), change, more, offsets,
            classes, OMP_THREADS, logits.data());
        check(done == 0, "few queries were not read");
        rarememory_blend(logits.data(), batch, classes, columns.data(), 0, answers.data(), 3,
                         host_columns.data(), weights.data(), weights.data() + 1, 0.5f,
                         weights.data() + 2, weights.data() + 3, nullptr, all, -1e30f, OMP_THREADS,
                         z.data(), likeliest.data());
        for (int64_t row = 0; row < batch; ++row)
            check(likeliest[row] < all, "no class is likeliest");
        // The second of three host classes is forgotten.
        Buffer<int64_t> host_ids(3, 1);
        host_ids[1] = EMPTY;
        Buffer<float> sure(2 * batch), norms(batch);
        rarememory_certainty(answers.data(), batch, 3, host_ids.data(), OMP_THREADS, sure.data());
        rarememory_norms(queries.data(), batch, dim, 1e-15f, 1e15f, OMP_THREADS, norms.data());
        for (int64_t row = 0; row < batch; ++row)
            check(sure[2 * row] >= 0.5f && sure[2 * row] <= 1 && norms[row] >= 1e-15f,
                  "a host is surer than sure, or a row has no length");
        Buffer<int64_t> decided(batch);
        rarememory_decide(queries.data(), batch, dim, answers.data(), weights.data(), by_roots,
                          origins.data(), origins.data() + dim, metric.data(), axes, precise, 0.5f,
                          linear.data(), added.data(), change, more, offsets, classes,
                          columns.data(), 3, host_columns.data(), 0.5f, 0.0f, 0.0f, all, -1e30f,
                          OMP_THREADS, decided.data());
        for (int64_t row = 0; row < batch; ++row)
            check(decided[row] == likeliest[row], "one call decides otherwise than two");
    }

    /// Of some slots only: the same ones for all queries, or other ones for each.
    void read_among(const Buffer<float>& queries, int64_t k, float tolerance, Random& random) {
        const int64_t batch = queries.size / dim, stride = random() % 2 ? slots : 0;
        const Buffer<bool> marks = some_marks(stride ? batch * slots : slots, random);
        if (!stride) {
            const Buffer<int64_t> labels = two_labels(random);
            rarememory_mark(values.data(), slots, labels.data(), labels.size, nullptr, OMP_THREADS,
                            marks.data());
        }
        Buffer<int64_t> found(batch * k, -2);
        rarememory_nearest(queries.data(), batch, keys.data(), slots, dim, marks.data(), stride, k,
                           tolerance, OMP_THREADS, found.data());
        for (int64_t i = 0; i < found.size; ++i)
            check(found[i] == EMPTY || marks[i / k * stride + found[i]], "a slot is not marked");
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
        const uint64_t state = random();
        rarememory_evict_oldest(values.data(), written.data(), clock, state, 1.0, 0.5, slots,
                                nearest.data(), batch, batch, free.data());
        check(same(free, evicted_in_blocks(state, nearest, batch)), "another slot is given up");
        if (random() % 2) {
            const int64_t seed = int64_t(state);
            rarememory_write_at_once(keys.data(), slots, dim, values.data(), written.data(), &clock,
                                     &seed, queries.data(), labels.data(), batch, nearest.data(), 1,
                                     1, 1.0, 0.5, 1e-12, slots_of.data(), averaged.data(),
                                     overwritten.data());
        } else {
            rarememory_write(keys.data(), dim, values.data(), written.data(), &clock, queries.data(),
                             labels.data(), batch, nearest.data(), averaged.data(), inserted.data(),
                             free.data(), batch, 1e-12, slots_of.data(), overwritten.data());
        }
        code(slots_of.data(), batch);
    }

    Buffer<int64_t> evicted_in_blocks(uint64_t state, const Buffer<int64_t>& keep, int64_t count) {
        Buffer<int64_t> chosen(count, EMPTY);
        Buffer<double> of_chosen(count), priorities(slots);
        rarememory_noise(state, slots, priorities.data());
        for (int64_t slot = 0; slot < slots; ++slot)
            priorities[slot] = double(clock - written[slot]) + 0.5 * priorities[slot];
        for (int64_t first = 0; first < slots; first += BLOCK) {
            const int64_t size = std::min(BLOCK, slots - first);
            rarememory_evict(priorities.data() + first, values.data() + first, first, size,
                             keep.data(), keep.size, count, of_chosen.data(), chosen.data());
        }
        return chosen;
    }
};

/// Memories of one size, one after the other in their buffers.
struct Memories {
    int64_t count, slots, dim;
    Buffer<float> keys;
    Buffer<int64_t> values, written, clocks, seeds;
    std::shared_mutex mutex;

    explicit Memories(Random& random)
        : count(1 + random() % 5), slots(some_size(random) / 2 + 1), dim(1 + random() % 40),
          keys(units(count * slots, dim, random)), values(count * slots, EMPTY),
          written(count * slots), clocks(count), seeds(count, 7) {}

    Found read_all(const Buffer<float>& queries, int64_t k) {
        const int64_t rows = queries.size / dim;
        Found found(rows, k, dim);
        const int64_t done = rarememory_read_each(
            count, queries.data(), rows / count, keys.data(), slots, dim, values.data(), k, 1e-5f,
            OMP_THREADS, found.units.data(), found.slots.data(), found.scores.data(),
            found.values.data());
        check(done == 0, "a read of memories failed");
        return found;
    }

    void read(Random& random) {
        std::shared_lock<std::shared_mutex> shared(mutex);
        const int64_t batch = 1 + random() % ROWS, rows = count * batch;
        Buffer<float> queries = units(rows, dim, random);
        read_all(queries, std::min<int64_t>(slots, 1 + random() % 9));
        Pairs pairs(rows, dim, random);
        pairs.loss = Buffer<float>(count);
        const int64_t done = rarememory_read_pair_each(
            count, queries.data(), batch, keys.data(), slots, dim, values.data(),
            pairs.labels.data(), 0.1f, 1e-5f, OMP_THREADS, pairs.units.data(), pairs.slots.data(),
            pairs.scores.data(), pairs.values.data(), pairs.keys.data(), pairs.slopes.data(),
            pairs.gradient.data(), pairs.loss.data());
        check(done == 0, "a pair of memories was not read");
    }

    void write(Random& random) {
        std::unique_lock<std::shared_mutex> alone(mutex);
        const int64_t batch = std::min<int64_t>(slots, 1 + random() % ROWS), rows = count * batch;
        Buffer<float> queries = units(rows, dim, random);
        const int64_t k = std::min<int64_t>(slots, 2);
        const Found found = read_all(queries, k);
        Buffer<int64_t> labels(rows), slots_of(rows), overwritten(rows);
        Buffer<bool> hits(rows);
        for (int64_t row = 0; row < rows; ++row) labels[row] = random() % 7;
        const int64_t done = rarememory_write_each(
            count, keys.data(), slots, dim, values.data(), written.data(), clocks.data(),
            seeds.data(), queries.data(), labels.data(), batch, found.slots.data(), k, 1, 1.0, 0.5,
            1e-12, OMP_THREADS, slots_of.data(), hits.data(), overwritten.data());
        check(done == 0, "a write of memories failed");
    }
};

}  // namespace

int main(int count, char** arguments) {
    const uint64_t seed = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 0;
    const int turns = count > 2 ? std::atoi(arguments[2]) : 20;
    Random random(seed);
    Memory memory(some_size(random), 1 + random() % 80, random);
    Memories memories(random);
    std::vector<std::thread> threads;
    // Each with numbers of its own.
    auto start = [&](auto& of, auto what) {
        threads.emplace_back([&, what, mine = Random(seed * 64 + threads.size())]() mutable {
            for (int turn = 0; turn < turns; ++turn) (of.*what)(mine);
        });
    };
    for (int reader = 0; reader < READERS; ++reader) start(memory, &Memory::read);
    for (int reader = 0; reader < 2; ++reader) start(memories, &Memories::read);
    for (int writer = 0; writer < 2; ++writer) start(memory, &Memory::write);
    start(memories, &Memories::write);
    for (std::thread& thread : threads) thread.join();
    std::printf("done with %d teams\n", teams.load());
}
