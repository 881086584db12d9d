// The k nearest slots, by codes first: a bound above every score and one below, the slots whose bound
// above reaches the k-th highest bound below, and of those in question the scores themselves. Where
// few slots may be found, only their codes are read. Where they are to be ranked, all those slots are
// scored at once: which of them are in question need not be asked.

#include <cmath>
#include <cstring>
#include <optional>

#include "calls.h"
#include "coded_queries.h"
#include "rank.h"

using namespace rarememory;

namespace {

// Up to so many neighbours the bounds of queries in bytes leave few slots in question, and take
// half the time; beyond, to look at more keys takes longer than that.
constexpr int FEW = 128;
// Up to one in so many slots it is quicker to list those that may be found; and of fewer than this,
// and k times so many, to read the keys and no codes.
constexpr int64_t FEW_OF_ALL = 4, FEWEST_CODED = 1024, FEWEST_CODED_PER_K = 32;

/// The k-th highest of some numbers; with fewer than k of them, the lowest.
float kth_highest(const std::vector<float>& numbers, int64_t count, int64_t k) {
    return lowest_from(numbers.data(), count, reached_by(numbers.data(), count, k, 64));
}

struct CodedSearch {
    Rows queries, keys;  // where places are listed, candidates are numbers of the list
    Codes codes;
    const bool* occupied;
    int64_t k;
    float tolerance;
    CodedQueries coded_queries;

    bool alone() const { return coded_queries.alone(); }

    /// Slots in question beyond which the keys themselves are the quicker way.
    int64_t most() const {
        return std::clamp<int64_t>(keys.count / 8, 2 * k + FEWEST, 16 * k + 4096);
    }

    int64_t block_size() const {
        if (alone() && !keys.places) return BLOCK;
        return std::clamp<int64_t>(16 * k, 2048, BLOCK) / ROW * ROW;
    }

    /// Candidates for the queries of every `shares`-th tile, among the slots of one part.
    void offer(int64_t begin, int64_t end, int64_t share, int64_t shares,
               Candidates* candidates) const {
        const int64_t size = block_size();
        static thread_local std::vector<float> block;
        static thread_local ListedCodes listed;
        block.resize(std::max<size_t>(block.size(), size * coded_queries.tile()));
        for (int64_t at = begin; at < end; at += size) {
            const int64_t count = std::min(size, end - at);
            const bool holes = !keys.places && std::memchr(occupied + at, 0, count);
            const Codes some =
                keys.places ? listed.of(codes, keys.places + at, count, alone()) : codes.after(at);
            const int64_t tile = coded_queries.tile();
            for (int64_t first = share * tile; first < queries.count; first += shares * tile) {
                const int64_t last = std::min(first + tile, queries.count);
                coded_queries.bound_tile(some, count, first, size, block.data());
                for (int64_t row = first; row < last; ++row) {
                    float* upper = block.data() + (row - first) * size;
                    for (int64_t i = 0; holes && i < count; ++i)
                        if (!occupied[at + i]) upper[i] = -INFINITE;
                    take(row, upper, some.off, at, count, candidates[row]);
                }
            }
        }
    }

    /// Takes what may be among the k best out of a block of bounds above.
    void take(int64_t row, const float* upper, const float* off, int64_t at, int64_t count,
              Candidates& candidates) const {
        const CodedQuery& query = coded_queries[row];
        // Who has too many already is answered without.
        if (!query.held || candidates.count > most()) return;
        if (candidates.least() == LOWEST) {
            static thread_local std::vector<float> lower;
            lower.resize(BLOCK + LANES);
            for (int64_t i = 0; i < count; i += LANES)
                store(&lower[i], load(upper + i) - 2 * off_by(query, load(off + i)));
            candidates.demand(threshold(lower.data(), count, k));
        }
        candidates.take(upper, count, int32_t(at));
        if (candidates.count > 2 * k + FEWEST) shrink(query, candidates);
    }

    /// Drops what no longer can be among the k best.
    void shrink(const CodedQuery& query, Candidates& candidates) const {
        if (candidates.count <= k) return;
        candidates.demand(kth_highest(lower_bounds(query, candidates), candidates.count, k));
        candidates.keep_from(candidates.least());
    }

    std::vector<float> lower_bounds(const CodedQuery& query, const Candidates& candidates) const {
        std::vector<float> lower(candidates.scores.size(), -INFINITE);
        for (int64_t i = 0; i < candidates.count; ++i) 
            lower[i] = codes.off[keys.place(candidates.slots[i])];
        for (int64_t i = 0; i < candidates.count; i += LANES)
            store(&lower[i], load(&candidates.scores[i]) - 2 * off_by(query, load(&lower[i])));
        return lower;
    }

    /// Whether codes could tell the k nearest; then those are written down.
    bool answer(int64_t row, Candidates& candidates, int64_t* slots) const {
        const CodedQuery& query = coded_queries[row];
        int64_t *next = slots, *const end = slots + k;
        if (finite(queries[row], keys.dim)) {
            if (!query.held) return false;
            shrink(query, candidates);
            const Candidates open = in_question(query, candidates, next);
            const Candidates best = best_of(open, row, end - next);
            next = std::copy_n(best.slots.begin(), best.count, next);
        }
        std::transform(slots, next, slots, [&](int64_t slot) { return keys.place(slot); });
        std::fill(next, end, EMPTY);
        return true;
    }

    /// The same, and ranks them.
    bool rank(int64_t row, Candidates& candidates, Ranker& ranker) const {
        const CodedQuery& query = coded_queries[row];
        if (query.held) shrink(query, candidates);
        // Of many most are not among the k nearest, and a key that no code holds may not be found.
        const bool many = candidates.count > 2 * k + FEWEST;
        const float highest = highest_of(candidates.scores.data(), candidates.count);
        if (!query.held || many || highest > FAR / 2) {
            if (!answer(row, candidates, ranker.slots_of(row))) return false;
            ranker.rank_again(queries[row], row);
            return true;
        }
        ranker.rank(queries[row], row, candidates.count,
                    [&](int64_t i) { return keys.place(candidates.slots[i]); });
        return true;
    }

    /// Writes down the slots that are surely among the k nearest, and returns the others.
    Candidates in_question(const CodedQuery& query, const Candidates& candidates,
                           int64_t*& next) const {
        std::vector<float> lower = lower_bounds(query, candidates);
        // No more than k have a bound above that is higher.
        const float beyond = kth_highest(candidates.scores, candidates.count, k + 1);
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
        std::vector<float> scores(open.scores.size());
        score_candidates(queries[row], keys, open, scores.data());
        Candidates best;
        best.add(scores.data(), open.slots.data(), open.count);
        best.keep_from(LOWEST);
        best.settle(keys, queries[row], wanted, tolerance);
        return best;
    }

    /// Answers some queries without codes.
    void answer_without(const std::vector<int64_t>& rows, int threads, int64_t* found) const {
        const std::vector<float> asked = gathered(queries, rows);
        std::vector<int64_t> slots(rows.size() * k);
        rarememory_nearest(asked.data(), rows.size(), keys.numbers, codes.slots, keys.dim,
                           occupied, 0, k, tolerance, threads, slots.data());
        for (size_t i = 0; i < rows.size(); ++i)
            std::copy_n(&slots[i * k], k, found + rows[i] * k);
    }
};

/// Finds the slots, and ranks them where there is room for that.
int64_t find(const float* queries, int64_t batch, const float* keys, int64_t slots, int64_t dim,
             const uint8_t* bytes, const float* steps, const float* off, const uint8_t* rows,
             const bool* occupied, int64_t k, float tolerance, int threads,
             const int64_t* sampled, int64_t samples, int64_t* found, const Ranked* ranked) {
    const int64_t marked = count_marks(occupied, slots);
    const bool few = marked * FEW_OF_ALL <= slots;
    if (few && (!rows || marked < std::max(FEWEST_CODED, k * FEWEST_CODED_PER_K))) {
        rarememory_nearest(queries, batch, keys, slots, dim, occupied, 0, k, tolerance, threads,
                           found);
        if (ranked)
            rarememory_rank(queries, batch, keys, dim, ranked->values, found, k, threads,
                            ranked->scores, ranked->found_values);
        return 0;
    }
    const Codes codes{bytes, steps, off, slots, dim, rows};
    for (int64_t i = 0; i < samples; ++i)
        if (!is_of_key(codes, {keys, slots, dim}, sampled[i])) return STALE;
    const bool in_bytes = k <= FEW && are_best_in_bytes(batch);
    std::vector<int32_t> places;
    Rows searched{keys, slots, dim};
    if (few) {
        places = places_of(occupied, slots, marked);
        searched = {keys, marked, dim, places.data()};
    }
    const Rows asked{queries, batch, dim};
    const CodedSearch search{asked, searched,  codes, occupied,
                             k,     tolerance, {asked, in_bytes, few}};
    const int team = worth(threads, batch, searched.count,
                           (few ? 4 : BY_BYTES ? 1 : 2) * codes.quads());
    const Sharing sharing(searched.count, search.alone() ? 2048 : search.block_size(), team);
    const int64_t parts = sharing.parts;
    std::vector<Candidates> candidates(parts * batch);
    sharing.each([&](int64_t begin, int64_t end, int64_t part, int64_t share) {
        search.offer(begin, end, share, sharing.shares, &candidates[part * batch]);
    });
    std::vector<char> answered(batch);
    in_parts(batch, batch * k >= 1024 ? team : 1, [&](int64_t begin, int64_t end) {
        std::optional<Ranker> ranker;
        if (ranked) ranker.emplace(Rows{keys, slots, dim}, *ranked);
        for (int64_t row = begin; row < end; ++row) {
            bool few = true;
            for (int64_t part = 0; part < parts; ++part) {
                few &= candidates[part * batch + row].count <= search.most();
                if (part > 0) candidates[row].join(candidates[part * batch + row]);
            }
            answered[row] = few && (ranker ? search.rank(row, candidates[row], *ranker)
                                           : search.answer(row, candidates[row], found + row * k));
        }
    });
    std::vector<int64_t> left;
    for (int64_t row = 0; row < batch; ++row)
        if (!answered[row]) left.push_back(row);
    if (left.empty()) return 0;
    search.answer_without(left, threads, found);
    if (ranked)
        for_each(left.size(), threads, [&](int64_t i) {
            Ranker({keys, slots, dim}, *ranked).rank_again(asked[left[i]], left[i]);
        });
    return left.size();
}

}  // namespace

/// Returns how many queries codes were of no use for; or STALE, and no slots, where the code of one
/// of the slots `sampled` is not of its key.
extern "C" int64_t rarememory_nearest_coded(const float* queries, int64_t batch, const float* keys,
                                            int64_t slots, int64_t dim, const uint8_t* bytes,
                                            const float* steps, const float* off,
                                            const uint8_t* rows, const bool* occupied, int64_t k,
                                            float tolerance, int threads, const int64_t* sampled,
                                            int64_t samples, int64_t* found) {
    return find(queries, batch, keys, slots, dim, bytes, steps, off, rows, occupied, k, tolerance,
                threads, sampled, samples, found, nullptr);
}

/// The same in the one order, with scores and values.
extern "C" int64_t rarememory_ranked_coded(const float* queries, int64_t batch, const float* keys,
                                           int64_t slots, int64_t dim, const uint8_t* bytes,
                                           const float* steps, const float* off,
                                           const uint8_t* rows, const bool* occupied,
                                           const int64_t* values, int64_t k, float tolerance,
                                           int threads, const int64_t* sampled, int64_t samples,
                                           int64_t* found, float* scores, int64_t* found_values) {
    const Ranked ranked{values, k, found, scores, found_values};
    return find(queries, batch, keys, slots, dim, bytes, steps, off, rows, occupied, k, tolerance,
                threads, sampled, samples, found, &ranked);
}
