// The k nearest slots, by codes first: a bound above and one below every score, the few slots that
// reach the k-th highest bound below, and of those the scores themselves.

#include <cmath>
#include <cstring>

#include "candidates.h"
#include "codes.h"
#include "squares.h"

using namespace rarememory;

extern "C" void rarememory_nearest(const float* queries, int64_t batch, const float* keys,
                                   int64_t slots, int64_t dim, const bool* occupied, int64_t k,
                                   float tolerance, int threads, int64_t* found);

namespace {

constexpr int AT_ONCE = LANES == 16 ? 8 : 4;  // queries that a key is multiplied with
constexpr int GROUPS_ALONE = 4;               // of keys, for one query
constexpr int FEW = 64;                       // neighbours, for which rough bounds are enough
constexpr int AHEAD = 8;                      // keys to ask for before one is read
constexpr int ROW = GROUPS_ALONE * LANES;     // threads part the slots at multiples of it

/// The k-th highest of some numbers, or less than all of them if there are fewer.
float kth_highest(const std::vector<float>& numbers, int64_t count, int64_t k) {
    return lowest_from(numbers.data(), count, reached_by(numbers.data(), count, k, 64));
}

/// A query in as many steps as a sum of products over all numbers of a key has room for.
CodedQuery coded(const float* query, int64_t dim, int most) {
    CodedQuery made{};
    made.halves.resize((dim + 3) / 4 * 2);
    if (!finite(query, dim)) return made;
    float largest = 0;
    double squares = 0, squares_off = 0;
    for (int64_t d = 0; d < dim; ++d) {
        largest = std::max(largest, std::abs(query[d]));
        squares += double(query[d]) * query[d];
    }
    const int64_t room = std::numeric_limits<int32_t>::max() / (CODES * dim);
    const int levels = int(std::min<int64_t>(room, most));
    made.length = float(std::sqrt(squares)) * 1.000001f;
    made.held = levels > 0 && largest > 1e-15f && made.length < 1e3f;
    if (!made.held) return made;
    made.step = largest / levels;
    for (int64_t quad = 0; quad < (dim + 3) / 4; ++quad) {
        int four[4] = {};
        for (int64_t d = 4 * quad; d < std::min(dim, 4 * quad + 4); ++d) {
            const int whole = int(std::nearbyint(query[d] / made.step));
            const int code = four[d % 4] = std::clamp(whole, -levels, levels);
            const double difference = query[d] - double(made.step) * code;
            squares_off += difference * difference;
            made.zeros += uint32_t(ZERO * code);
        }
        halve(four, &made.halves[2 * quad]);
    }
    // A score and its bounds are rounded a few times, each time by less than 2^-23 of themselves.
    made.off = LONGEST * float(std::sqrt(squares_off)) + 0x1p-19f * made.length;
    return made;
}

struct CodedSearch {
    Rows queries, keys;
    Codes codes;
    const bool* occupied;
    int64_t k;
    float tolerance;
    bool roughly;  // whether a byte for each number of a query is enough
    std::vector<CodedQuery> coded_queries;

    /// How many slots may be in question before the keys themselves are the quicker way.
    int64_t most() const {
        return std::clamp<int64_t>(keys.count / 8, 2 * k + FEWEST, 16 * k + 4096);
    }

    /// What the true score of a slot is off by at most.
    Floats bound(const CodedQuery& query, int64_t slot) const {
        return load(codes.off + slot) * query.length + query.off;
    }

    /// Bounds above the scores of some keys, [QUERIES, size].
    template <int QUERIES, int N, bool BOTH>
    void upper_bounds(int64_t at, int64_t count, int64_t first, const int32_t* halves, int64_t size,
                      float* bounds) const {
        Words products[QUERIES * N];
        for (int64_t slot = at; slot < at + count; slot += N * LANES) {
            multiply<N, QUERIES, BOTH>(codes, slot, halves, products);
            for (int row = 0; row < QUERIES; ++row) {
                const CodedQuery& query = coded_queries[first + row];
                for (int group = 0; group < N; ++group) {
                    const int64_t here = slot + group * LANES;
                    const Ints product = (Ints)(products[row * N + group] - query.zeros);
                    const Floats score = __builtin_convertvector(product, Floats) *
                                         (load(codes.steps + here) * query.step);
                    store(bounds + row * size + (here - at), score + bound(query, here));
                }
            }
        }
    }

    /// The bounds below that belong to bounds above.
    void lower_bounds(const CodedQuery& query, int64_t at, const float* upper, int64_t count,
                      float* lower) const {
        for (int64_t i = 0; i < count; i += LANES)
            store(lower + i, load(upper + i) - 2 * bound(query, at + i));
    }

    const std::vector<float>& lower_bounds_of(const CodedQuery& query,
                                              const Candidates& candidates) const {
        static thread_local std::vector<float> lower;
        lower.assign(candidates.scores.size(), -INFINITE);
        float* const to = lower.data();
        const float *upper = candidates.scores.data(), *off = codes.off;
        const int32_t* slots = candidates.slots.data();
        const float length = query.length, of_query = query.off;
        for (int64_t i = 0; i < candidates.count; ++i)
            to[i] = upper[i] - 2 * (off[slots[i]] * length + of_query);
        return lower;
    }

    void take(const CodedQuery& query, const float* upper, int64_t at, int64_t count,
              Candidates& candidates) const {
        static thread_local std::vector<float> lower;
        if (candidates.least() == LOWEST) {
            lower.resize(std::max<size_t>(lower.size(), count + LANES));
            lower_bounds(query, at, upper, count, lower.data());
            candidates.demand(threshold(lower.data(), count, k));
        }
        candidates.take(upper, count, int32_t(at));
    }

    /// Drops what no longer can be among the k best.
    void shrink(const CodedQuery& query, Candidates& candidates) const {
        if (candidates.count <= k) return;
        const std::vector<float>& lower = lower_bounds_of(query, candidates);
        candidates.demand(kth_highest(lower, candidates.count, k));
        candidates.keep_from(candidates.least());
    }

    /// Candidates for the queries of every `shares`-th tile, among the slots of one part.
    void offer(int64_t begin, int64_t end, int64_t share, int64_t shares,
               const std::vector<std::vector<int32_t>>& halves, Candidates* candidates) const {
        const bool alone = queries.count == 1;
        const int64_t size = block_size();
        static thread_local std::vector<float> block;
        block.resize(std::max<size_t>(block.size(), size * AT_ONCE));
        for (int64_t at = begin; at < end; at += size) {
            const int64_t count = std::min(size, end - at);
            const bool holes = std::memchr(occupied + at, 0, count) != nullptr;
            for (size_t some = share; some < halves.size(); some += shares) {
                const int64_t first = some * AT_ONCE;
                const int64_t last = std::min<int64_t>(first + AT_ONCE, queries.count);
                const int32_t* of_some = halves[some].data();
                if (alone)
                    upper_bounds<1, GROUPS_ALONE, true>(at, count, 0, of_some, size, block.data());
                else if (roughly)
                    upper_bounds<AT_ONCE, 2, false>(at, count, first, of_some, size, block.data());
                else
                    upper_bounds<AT_ONCE, 1, true>(at, count, first, of_some, size, block.data());
                for (int64_t row = first; row < last; ++row) {
                    float* upper = block.data() + (row - first) * size;
                    for (int64_t i = 0; holes && i < count; ++i)
                        if (!occupied[at + i]) upper[i] = -INFINITE;
                    for (int64_t i = count; i % LANES; ++i) upper[i] = -INFINITE;
                    consider(row, upper, at, count, candidates[row]);
                }
            }
        }
    }

    void consider(int64_t row, const float* upper, int64_t at, int64_t count,
                  Candidates& candidates) const {
        const CodedQuery& query = coded_queries[row];
        // One that has too many already has no use for more.
        if (!query.held || candidates.count > most()) return;
        take(query, upper, at, count, candidates);
        if (candidates.count > 2 * k + FEWEST) shrink(query, candidates);
    }

    /// Writes down the slots that are surely among the k nearest, and returns the others.
    Candidates in_question(const CodedQuery& query, const Candidates& candidates,
                           int64_t*& next) const {
        const float beyond = kth_highest(candidates.scores, candidates.count, k + 1);
        std::vector<float> lower = lower_bounds_of(query, candidates);
        Candidates sure, open;
        sure.add(lower.data(), candidates.slots.data(), candidates.count);
        sure.keep_from(std::nextafter(beyond, INFINITE));
        for (float& number : lower) number = -number;
        open.add(lower.data(), candidates.slots.data(), candidates.count);
        open.keep_from(-beyond);
        next = std::copy_n(sure.slots.begin(), sure.count, next);
        return open;
    }

    /// The best of these slots, by the keys themselves.
    Candidates best_of(const Candidates& open, int64_t row, int64_t wanted) const {
        static thread_local std::vector<float> scores;
        scores.resize(open.scores.size());
        auto key = [&](int64_t i) { return keys[open.slots[i]]; };
        auto soon = [&](int64_t i) { return key(std::min(i + AHEAD, open.count - 1)); };
        score_rows(queries[row], keys.dim, open.count, key, soon, scores.data());
        Candidates best;
        best.add(scores.data(), open.slots.data(), open.count);
        best.keep_from(LOWEST);
        best.settle(keys, queries[row], wanted, tolerance);
        return best;
    }

    /// Whether the candidates hold the k nearest; then those are written down.
    bool answer(int64_t row, Candidates& candidates, int64_t* slots) const {
        const CodedQuery& query = coded_queries[row];
        if (!query.held || candidates.count > most()) return false;
        shrink(query, candidates);
        int64_t* const end = slots + (row + 1) * k;
        int64_t* next = slots + row * k;
        const Candidates open = in_question(query, candidates, next);
        const Candidates best = best_of(open, row, end - next);
        next = std::copy_n(best.slots.begin(), best.count, next);
        std::fill(next, end, EMPTY);
        return true;
    }

    int64_t block_size() const {
        return queries.count == 1 ? 8192 : std::clamp<int64_t>(16 * k, 2048, 8192) / ROW * ROW;
    }
};

/// Halves of AT_ONCE queries, side by side.
std::vector<int32_t> side_by_side(const std::vector<CodedQuery>& queries, int64_t first,
                                  int64_t halves) {
    std::vector<int32_t> packed(halves * AT_ONCE);
    for (int64_t row = 0; row < AT_ONCE; ++row)
        for (int64_t i = 0; i < halves; ++i)
            packed[i * AT_ONCE + row] = queries[first + row].halves[i];
    return packed;
}

}  // namespace

extern "C" void rarememory_nearest_coded(const float* query_numbers, int64_t batch,
                                         const float* keys, int64_t slots, int64_t dim,
                                         const uint8_t* bytes, const float* steps,
                                         const float* off, const bool* occupied, int64_t k,
                                         float tolerance, int threads, int64_t* found) {
    const bool roughly = BY_BYTES && batch > 1 && k <= FEW;
    CodedSearch search{{query_numbers, batch, dim}, {keys, slots, dim},
                       {bytes, steps, off, slots, dim}, occupied, k, tolerance, roughly, {}};
    const int64_t tiles = batch == 1 ? 1 : (batch + AT_ONCE - 1) / AT_ONCE;
    const int all_threads = threads;
    threads = worth(threads, batch, slots, (dim + 3) / 4);
    const int64_t enough = batch == 1 ? 8192 : search.block_size();
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, slots / enough));
    const int64_t shares = threads / parts;
    search.coded_queries.resize(batch == 1 ? 1 : tiles * AT_ONCE);
    for (size_t row = 0; row < search.coded_queries.size(); ++row)
        if (int64_t(row) < batch) search.coded_queries[row] = coded(search.queries[row], dim, roughly ? CODES : 32639);
        else search.coded_queries[row].halves.resize((dim + 3) / 4 * 2);
    std::vector<std::vector<int32_t>> halves(tiles);
    for (int64_t tile = 0; tile < tiles; ++tile)
        halves[tile] = batch == 1 ? search.coded_queries[0].halves
                                 : side_by_side(search.coded_queries, tile * AT_ONCE,
                                                (dim + 3) / 4 * 2);
    std::vector<Candidates> candidates(parts * batch);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t work = 0; work < parts * shares; ++work) {
        const int64_t part = work % parts, rows = (slots + ROW - 1) / ROW;
        search.offer(rows * part / parts * ROW,
                     std::min(rows * (part + 1) / parts * ROW, slots), work / parts, shares, halves,
                     &candidates[part * batch]);
    }
    std::vector<char> answered(batch);
#pragma omp parallel for num_threads(threads) if (batch * k >= 1024) schedule(static)
    for (int64_t row = 0; row < batch; ++row) {
        Candidates& best = candidates[row];
        for (int64_t part = 1; part < parts; ++part) best.join(candidates[part * batch + row]);
        answered[row] = search.answer(row, best, found);
    }
    for (int64_t row = 0; row < batch; ++row)
        if (!answered[row])
            rarememory_nearest(search.queries[row], 1, keys, slots, dim, occupied, k, tolerance,
                               all_threads, found + row * k);
}
