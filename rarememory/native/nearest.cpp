// The k nearest slots: scores of a block of keys, a threshold below which nothing can be among the k
// best, and the few candidates above it.

#include <cstring>

#include "candidates.h"
#include "squares.h"

using namespace rarememory;

namespace {

constexpr int64_t SOON = 512;  // numbers ahead of those that are being read

struct Search {
    Rows queries, keys;
    const bool* occupied;
    int64_t k;
    float tolerance;

    /// Scores of a block of keys for LANES queries, [LANES, size].
    void score_group(int64_t at, int64_t count, const float* lanes, int64_t size,
                     float* scores) const {
        stream(keys, at, at + count, lanes, [&](int64_t slot, Floats* tile, auto n) {
            float* to = scores + (slot - at);
            if (n < TILE) {
                for (int lane = 0; lane < LANES; ++lane) to[lane * size] = tile[0][lane];
                return;
            }
            for (int square = 0; square < TILE; square += LANES) {
                transpose(tile + square);
                for (int lane = 0; lane < LANES; ++lane)
                    store(to + lane * size + square, tile[square + lane]);
            }
        });
    }

    /// The same for a query alone: a vector holds LANES coordinates of a key, and nothing is idle.
    void score_one(int64_t at, int64_t count, const float* query, float* scores) const {
        auto key = [&](int64_t i) { return keys[at + i]; };
        auto soon = [&](int64_t i) { return keys[at + i] + SOON; };
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
            const bool holes = std::memchr(occupied + at, 0, count) != nullptr;
            for (size_t group = share; group < lanes.size(); group += shares) {
                if (alone) score_one(at, count, queries[0], block.data());
                else score_group(at, count, lanes[group].data(), size, block.data());
                const int64_t first = group * LANES;
                const int64_t last = std::min<int64_t>(first + LANES, queries.count);
                for (int64_t query = first; query < last; ++query) {
                    float* scores = block.data() + (query - first) * size;
                    for (int64_t i = 0; holes && i < count; ++i)
                        if (!occupied[at + i]) scores[i] = -INFINITE;
                    for (int64_t i = count; i % LANES; ++i) scores[i] = -INFINITE;
                    candidates[query].offer(scores, count, int32_t(at), k, tolerance);
                    candidates[query].shrink(keys, queries[query], k, tolerance);
                }
            }
        }
    }

    void answer(int64_t query, Candidates& best, int64_t* slots) const {
        best.settle(keys, queries[query], k, tolerance);
        std::copy_n(best.slots.begin(), best.count, slots + query * k);
        std::fill(slots + query * k + best.count, slots + (query + 1) * k, EMPTY);
    }

    /// Keys whose scores are held at a time: many for a large k, for the first ones to tell enough.
    int64_t block_size() const {
        return queries.count == 1 ? 8192 : std::clamp<int64_t>(16 * k, 2048, 8192) / TILE * TILE;
    }
};

}  // namespace

extern "C" void rarememory_nearest(const float* queries, int64_t batch, const float* keys,
                                   int64_t slots, int64_t dim, const bool* occupied, int64_t k,
                                   float tolerance, int threads, int64_t* found) {
    const Search search{{queries, batch, dim}, {keys, slots, dim}, occupied, k, tolerance};
    const int64_t groups = (batch + LANES - 1) / LANES;
    // Threads share the slots, and where those are few for that, the queries.
    threads = worth(threads, batch, slots, dim);
    const int64_t enough = batch == 1 ? 2048 : search.block_size();
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, slots / enough));
    const int64_t shares = threads / parts;
    std::vector<std::vector<float>> lanes(groups);
    std::vector<Candidates> candidates(parts * batch);
#pragma omp parallel for num_threads(threads) if (groups > 1) schedule(static)
    for (int64_t group = 0; group < (batch > 1 ? groups : 0); ++group)
        lanes[group] = packed(search.queries, group * LANES);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t work = 0; work < parts * shares; ++work) {
        const int64_t part = work % parts;
        search.offer(slots * part / parts, slots * (part + 1) / parts, work / parts, shares, lanes,
                     &candidates[part * batch]);
    }
#pragma omp parallel for num_threads(threads) if (batch * k >= 1024) schedule(static)
    for (int64_t query = 0; query < batch; ++query) {
        Candidates& best = candidates[query];
        for (int64_t part = 1; part < parts; ++part) best.join(candidates[part * batch + query]);
        search.answer(query, best, found);
    }
}
