// The k nearest slots: scores of a block of keys, a threshold below which nothing can be among the k
// best, and the few candidates above it. Where few slots may be found, only their keys are read.

#include <cstring>

#include "calls.h"
#include "candidates.h"
#include "parallel.h"
#include "squares.h"

using namespace rarememory;

namespace {

constexpr int64_t SOON = 512;  // numbers ahead of those that are being read
constexpr int64_t LATER = 8;   // keys ahead, where they do not lie in a row
// Up to one in so many slots it is quicker to list those that are marked than to pass over the
// others: where all queries have the same marks, and where each has its own and is asked alone.
constexpr int64_t FEW_OF_ALL = 2, FEW_OF_EACH = 16;

struct Search {
    Rows queries, keys;
    const bool* marks;  // of the slots that may be found; null where all keys may
    int64_t stride;     // from the marks of one query to those of the next; 0 where they share them
    int64_t k;
    float tolerance;

    /// How many queries of a group share a vector.
    int width(int64_t group) const {
        return queries.count - group * LANES <= FEW_LANES ? FEW_LANES : LANES;
    }

    /// Scores of a block of keys for a group of queries, [width, size].
    template <class Vector>
    void score_group(int64_t at, int64_t count, const float* lanes, int64_t size,
                     float* scores) const {
        constexpr int WIDTH = sizeof(Vector) / sizeof(float);
        stream<Vector>(keys, at, at + count, lanes, [&](int64_t slot, Vector* tile, auto n) {
            float* to = scores + (slot - at);
            if (n < TILE) {
                for (int lane = 0; lane < WIDTH; ++lane) to[lane * size] = tile[0][lane];
                return;
            }
            for (int square = 0; square < TILE; square += LANES) {
                Floats turned[LANES];
                transpose_into(turned, tile + square);
                for (int lane = 0; lane < WIDTH; ++lane)
                    store(to + lane * size + square, turned[lane]);
            }
        });
    }

    /// The same for a query alone: a vector holds LANES coordinates of a key, and nothing is idle.
    void score_one(int64_t at, int64_t count, const float* query, float* scores) const {
        auto key = [&](int64_t i) { return keys[at + i]; };
        auto soon = [&](int64_t i) {
            return keys.places ? keys[std::min(at + i + LATER, keys.count - 1)]
                               : keys[at + i] + SOON;
        };
        score_rows(query, keys.dim, count, key, soon, scores);
    }

    /// Candidates for the queries of every `shares`-th group, among the slots of one part.
    void offer(int64_t begin, int64_t end, int64_t share, int64_t shares,
               const std::vector<std::vector<float>>& lanes, Candidates* candidates) const {
        const bool alone = queries.count == 1;
        if (alone && !finite(queries[0], queries.dim)) return;
        const int64_t size = block_size();
        static thread_local std::vector<float> block;
        block.resize(std::max<size_t>(block.size(), size * LANES));
        for (int64_t at = begin; at < end; at += size) {
            const int64_t count = std::min(size, end - at);
            const bool holes = marks && (stride || std::memchr(marks + at, 0, count));
            for (size_t group = share; group < lanes.size(); group += shares) {
                if (alone) score_one(at, count, queries[0], block.data());
                else if (width(group) < LANES)
                    score_group<FewFloats>(at, count, lanes[group].data(), size, block.data());
                else score_group<Floats>(at, count, lanes[group].data(), size, block.data());
                const int64_t first = group * LANES;
                const int64_t last = std::min<int64_t>(first + LANES, queries.count);
                for (int64_t query = first; query < last; ++query) {
                    float* scores = block.data() + (query - first) * size;
                    for (int64_t i = 0; holes && i < count; ++i)
                        if (!marks[query * stride + at + i]) scores[i] = -INFINITE;
                    for (int64_t i = count; i % LANES; ++i) scores[i] = -INFINITE;
                    candidates[query].offer(scores, count, int32_t(at), k, tolerance);
                    candidates[query].shrink(keys, queries[query], k, tolerance);
                }
            }
        }
    }

    void answer(int64_t query, Candidates& best, int64_t* slots) const {
        best.settle(keys, queries[query], k, tolerance);
        for (int64_t i = 0; i < best.count; ++i)
            slots[query * k + i] = keys.place(best.slots[i]);
        std::fill(slots + query * k + best.count, slots + (query + 1) * k, EMPTY);
    }

    /// Keys whose scores are held at a time: many for a large k, for the first ones to tell enough.
    int64_t block_size() const {
        return queries.count == 1 ? 8192 : std::clamp<int64_t>(16 * k, 2048, 8192) / TILE * TILE;
    }
};

/// The k nearest keys of every query, by so many threads.
void search_all(const Search& search, int threads, int64_t* found) {
    const int64_t batch = search.queries.count, slots = search.keys.count, k = search.k;
    const int64_t groups = (batch + LANES - 1) / LANES;
    // Threads share the slots, and where those are few for that, the queries.
    threads = worth(threads, batch, slots, search.keys.dim);
    const int64_t enough = batch == 1 ? 2048 : search.block_size();
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, slots / enough));
    const int64_t shares = threads / parts;
    std::vector<std::vector<float>> lanes(groups);
    std::vector<Candidates> candidates(parts * batch);
    for_each(batch > 1 ? groups : 0, groups > 1 ? threads : 1, [&](int64_t group) {
        lanes[group] = packed(search.queries, group * LANES, search.width(group));
    });
    for_each(parts * shares, threads, [&](int64_t work) {
        const int64_t part = work % parts;
        search.offer(slots * part / parts, slots * (part + 1) / parts, work / parts, shares, lanes,
                     &candidates[part * batch]);
    });
    for_each(batch, batch * k >= 1024 ? threads : 1, [&](int64_t query) {
        Candidates& best = candidates[query];
        for (int64_t part = 1; part < parts; ++part) best.join(candidates[part * batch + query]);
        search.answer(query, best, found);
    });
}

/// The same among the marked slots, whose places are listed first: no other key is read.
void search_listed(Search search, int threads, int64_t* found) {
    const int64_t slots = search.keys.count;
    search.keys.count = count_marks(search.marks, slots);
    const std::vector<int32_t> places = places_of(search.marks, slots, search.keys.count);
    search.keys.places = places.data();
    search.marks = nullptr;
    search_all(search, threads, found);
}

}  // namespace

/// The marks are of all queries with a stride of 0, else of each query, so many apart.
extern "C" void rarememory_nearest(const float* queries, int64_t batch, const float* keys,
                                   int64_t slots, int64_t dim, const bool* marks, int64_t stride,
                                   int64_t k, float tolerance, int threads, int64_t* found) {
    const Search search{{queries, batch, dim}, {keys, slots, dim}, marks, stride, k, tolerance};
    const int64_t rows = stride ? batch : 1, marked = count_marks(marks, rows * slots);
    if (marked * (stride ? FEW_OF_EACH : FEW_OF_ALL) > rows * slots)
        return search_all(search, threads, found);
    if (!stride) return search_listed(search, threads, found);
    threads = worth(threads, 1, marked, dim);
    for_each(batch, threads, [&](int64_t row) {
        Search one = search;
        one.queries = {search.queries[row], 1, dim};
        one.marks += row * stride;
        one.stride = 0;
        search_listed(one, 1, found + row * k);
    });
}
