// The k nearest slots: scores of a block of keys, a threshold below which nothing can be among the k
// best, and the few candidates above it.

#include <cstring>

#include "vectors.h"

using namespace rarememory;

namespace {

constexpr int64_t SOON = 512;   // numbers ahead of those that are being read
constexpr int64_t FEWEST = 64;  // numbers among which a k-th highest is worth finding

/// How many of the numbers are at least so high. They come in whole vectors, the last one padded.
int64_t count_from(const float* numbers, int64_t count, float least) {
    Ints found = {};
    for (int64_t i = 0; i < count; i += LANES) found -= load(numbers + i) >= least;
    int64_t sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += found[lane];
    return sum;
}

float highest_of(const float* numbers, int64_t count) {
    Floats highest = all(LOWEST);
    for (int64_t i = 0; i < count; i += LANES) highest = greater(load(numbers + i), highest);
    float of_all = LOWEST;
    for (int lane = 0; lane < LANES; ++lane) of_all = std::max(of_all, highest[lane]);
    return of_all;
}

float lowest_from(const float* numbers, int64_t count, float least) {
    Floats lowest = all(INFINITE);
    for (int64_t i = 0; i < count; i += LANES) {
        Floats some = load(numbers + i);
        lowest = lesser(some >= least ? some : all(INFINITE), lowest);
    }
    float of_all = INFINITE;
    for (int lane = 0; lane < LANES; ++lane) of_all = std::min(of_all, lowest[lane]);
    return of_all;
}

/// A number that k of the numbers reach, or few more: by bisection, since counting vectorises and
/// sorting does not. After enough rounds it parts the k highest from the rest as well as ties allow.
/// -2 if fewer than k are above that.
float reached_by(const float* numbers, int64_t count, int64_t k, int rounds) {
    float low = LOWEST, high = highest_of(numbers, count);
    if (count_from(numbers, count, low) < k) return LOWEST;
    if (count_from(numbers, count, high) >= k) return high;
    // k are in [low, ...] and fewer in [high, ...]. The first steps are small, as k often is.
    for (float step = (high - low) / 64; high - step > low; step *= 2) {
        if (count_from(numbers, count, high - step) >= k) {
            low = high - step;
            break;
        }
        high -= step;
    }
    for (int round = 0; round < rounds; ++round) {
        float middle = low + (high - low) / 2;
        if (middle <= low || middle >= high) break;
        int64_t found = count_from(numbers, count, middle);
        (found >= k ? low : high) = middle;
        if (found == k) break;
    }
    return low;
}

/// Slots that may be among the k nearest to one query, in ascending order.
class Candidates {
   public:
    int64_t count = 0;
    std::vector<float> scores;    // padded with what reaches nothing
    std::vector<int32_t> slots;

    /// Takes what reaches the threshold out of a block; the first one sets it.
    void offer(const float* block, int64_t size, int32_t first, int64_t k, float tolerance) {
        static thread_local std::vector<float> taken_scores;
        static thread_local std::vector<int32_t> taken_slots;
        taken_scores.resize(std::max<size_t>(taken_scores.size(), size + LANES));
        taken_slots.resize(taken_scores.size());
        if (least_ == LOWEST) least_ = std::max(LOWEST, threshold(block, size, k) - tolerance);
        int64_t taken = 0;
        for (int64_t i = 0; i < size; i += LANES) {
            Floats some = load(block + i);
            taken += pack(some, some >= least_, first + int32_t(i), &taken_scores[taken],
                          &taken_slots[taken]);
        }
        add(taken_scores.data(), taken_slots.data(), taken);
    }

    /// Adds those of later slots.
    void join(const Candidates& later) { add(later.scores.data(), later.slots.data(), later.count); }

    /// Drops what cannot be among the k best any more, once there is enough of it.
    void shrink(Rows keys, const float* query, int64_t k, float tolerance) {
        if (count <= 2 * k + FEWEST) return;
        least_ = std::max(LOWEST, lowest_of_best(k) - tolerance);
        keep_from(least_);
        if (count > 2 * k + FEWEST) settle(keys, query, k, tolerance);
    }

    /// Keeps the k best; where rounding could decide, exact scores do, and then the lower slot.
    void settle(Rows keys, const float* query, int64_t k, float tolerance) {
        if (count <= k) return;
        const float edge = lowest_of_best(k);
        keep_from(edge - tolerance);
        if (count == k) return;
        std::vector<std::pair<float, int32_t>> doubtful;
        for (int64_t i = 0; i < count; ++i)
            if (scores[i] <= edge + tolerance)
                doubtful.emplace_back(-exact_score(query, keys[slots[i]], keys.dim), int32_t(i));
        std::sort(doubtful.begin(), doubtful.end());
        for (auto out = doubtful.end() - (count - k); out != doubtful.end(); ++out)
            scores[out->second] = -INFINITE;
        keep_from(LOWEST);
    }

   private:
    float least_ = LOWEST;

    float lowest_of_best(int64_t k) const {
        return lowest_from(scores.data(), count, reached_by(scores.data(), count, k, 64));
    }

    /// A lower bound of the k-th highest of the block: that of the maxima of its halves, quarters...
    static float threshold(const float* block, int64_t size, int64_t k) {
        static thread_local std::vector<float> maxima;
        maxima.assign(block, block + (size + LANES - 1) / LANES * LANES);
        while (size % (2 * LANES) == 0 && size / 2 >= std::max(2 * k, FEWEST)) {
            size /= 2;
            for (int64_t i = 0; i < size; i += LANES)
                store(&maxima[i], greater(load(&maxima[i]), load(&maxima[size + i])));
        }
        return reached_by(maxima.data(), size, k, 8);
    }

    void add(const float* more_scores, const int32_t* more_slots, int64_t more) {
        if (more == 0) return;
        scores.resize((count + more + LANES - 1) / LANES * LANES);
        slots.resize(scores.size());
        std::copy_n(more_scores, more, &scores[count]);
        std::copy_n(more_slots, more, &slots[count]);
        count += more;
        std::fill(scores.begin() + count, scores.end(), -INFINITE);
    }

    void keep_from(float least) {
        int64_t kept = 0;
        for (int64_t i = 0; i < count; i += LANES) {
            Floats some = load(&scores[i]);
            Ints places;
            std::copy_n(&slots[i], LANES, (int32_t*)&places);
            kept += pack(some, some >= least, places, &scores[kept], &slots[kept]);
        }
        count = kept;
        scores.resize((count + LANES - 1) / LANES * LANES);
        std::fill(scores.begin() + count, scores.end(), -INFINITE);
    }
};

/// Of two rows of a square: lanes whose bit `Step` differs from the row's own change places.
template <int Step>
inline void exchange(Floats& a, Floats& b) {
    Ints from_a, from_b;
    for (int lane = 0; lane < LANES; ++lane) {
        from_a[lane] = lane & Step ? LANES + (lane ^ Step) : lane;
        from_b[lane] = lane & Step ? LANES + lane : lane ^ Step;
    }
    Floats first = shuffled(a, b, from_a);
    b = shuffled(a, b, from_b);
    a = first;
}

/// Calls `pass` with 1, 2, 4, ... up to half of LANES.
template <class Pass>
inline void each_step(Pass pass) {
    pass(std::integral_constant<int, 1>());
    pass(std::integral_constant<int, 2>());
    if constexpr (LANES > 4) pass(std::integral_constant<int, 4>());
    if constexpr (LANES > 8) pass(std::integral_constant<int, 8>());
}

/// Turns a square of LANES vectors over: rows of lanes become lanes of rows.
inline void transpose(Floats* square) {
    auto pass = [&](auto step) {
        for (int row = 0; row < LANES; ++row)
            if (!(row & step)) exchange<step>(square[row], square[row | step]);
    };
    each_step(pass);
}

/// Of LANES vectors the sum of each one's lanes.
inline Floats sums_of(Floats* rows) {
    auto pass = [&](auto step) {
        for (int row = 0; row < LANES; row += 2 * step) {
            exchange<step>(rows[row], rows[row + step]);
            rows[row] += rows[row + step];
        }
    };
    each_step(pass);
    return rows[0];
}

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
        constexpr int PAIR = 2 * LANES;  // two sums, so that one need not wait for the other
        const int64_t whole = keys.dim / PAIR * PAIR;
        for (int64_t slot = at; slot < at + count; slot += LANES) {
            const int64_t rows = std::min<int64_t>(LANES, at + count - slot);
            Floats sums[LANES] = {};
            // Key after key, as they lie in memory, and asking for those to come.
            for (int row = 0; row < rows; ++row) {
                const float* key = keys[slot + row];
                Floats even = {}, odd = {};
                for (int64_t d = 0; d < whole; d += PAIR) {
                    __builtin_prefetch(key + d + SOON);
                    __builtin_prefetch(key + d + LANES + SOON);
                    even += load(key + d) * load(query + d);
                    odd += load(key + d + LANES) * load(query + d + LANES);
                }
                sums[row] = even + odd;
                for (int64_t d = whole; d < keys.dim; ++d) sums[row][0] += key[d] * query[d];
            }
            store(scores + (slot - at), sums_of(sums));
        }
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
