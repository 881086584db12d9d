// The nearest slot of the positive value, and the nearest of a negative one, by codes first: few slots
// have a bound above that reaches the highest bound below, and their exact scores decide.

#include "calls.h"
#include "coded_queries.h"

using namespace rarememory;

namespace {

constexpr int64_t MOST = 1024;  // slots in question beyond which the keys are the quicker way

/// Slots that may be the nearest one of a query.
struct Sides {
    Candidates positive, negative;

    void join(const Sides& later) {
        positive.join(later.positive);
        negative.join(later.negative);
    }

    bool too_many(int64_t most) const { return std::max(positive.count, negative.count) > most; }
};

/// Numbers of 64 bits in halves that fit the lanes, padded with EMPTY to whole vectors.
struct Halves {
    std::vector<int32_t> low, high;

    void take(const int64_t* numbers, int64_t count) {
        low.assign(count + LANES, int32_t(EMPTY));
        high.assign(count + LANES, int32_t(EMPTY));
        for (int64_t i = 0; i < count; ++i) {
            low[i] = int32_t(numbers[i]);
            high[i] = int32_t(numbers[i] >> 32);
        }
    }

    Ints are(int64_t first, int64_t number) const {
        return (load_ints(&low[first]) == int32_t(number)) &
               (load_ints(&high[first]) == int32_t(number >> 32));
    }

   private:
    static Ints load_ints(const int32_t* numbers) { return (Ints)load((const float*)numbers); }
};

struct CodedPair {
    Rows queries, keys;
    Codes codes;
    const int64_t *values, *labels;
    float tolerance;
    CodedQueries coded_queries;

    int64_t most() const { return std::clamp<int64_t>(keys.count / 16, FEWEST, MOST); }
    int64_t block_size() const { return coded_queries.alone() ? BLOCK : 2048; }

    /// Slots in question for the queries of every `shares`-th tile, among the slots of one part.
    void offer(int64_t begin, int64_t end, int64_t share, int64_t shares, Sides* sides) const {
        const int64_t size = block_size(), tile = coded_queries.tile();
        static thread_local std::vector<float> block, positive(BLOCK), negative(BLOCK);
        static thread_local Halves of_slots;
        block.resize(std::max<size_t>(block.size(), size * tile));
        for (int64_t at = begin; at < end; at += size) {
            const int64_t count = std::min(size, end - at);
            const Codes some = codes.after(at);
            of_slots.take(values + at, count);
            for (int64_t first = share * tile; first < queries.count; first += shares * tile) {
                coded_queries.bound_tile(some, count, first, size, block.data());
                for (int64_t row = first; row < std::min(first + tile, queries.count); ++row) {
                    if (!coded_queries[row].held || sides[row].too_many(most() + size)) continue;
                    const bool known = part(block.data() + (row - first) * size, of_slots, count,
                                            labels[row], positive.data(), negative.data());
                    take(row, negative.data(), some.off, at, count, sides[row].negative);
                    if (known) take(row, positive.data(), some.off, at, count, sides[row].positive);
                }
            }
        }
    }

    /// The bounds of slots with a label, and of those with another one; whether there are any of the
    /// first.
    static bool part(const float* upper, const Halves& of_slots, int64_t count, int64_t label,
                     float* positive, float* negative) {
        Ints found = {};
        for (int64_t i = 0; i < count; i += LANES) {
            const Ints empty = of_slots.are(i, EMPTY), same = of_slots.are(i, label) & ~empty;
            const Floats bounds = load(upper + i), never = all(-INFINITE);
            store(positive + i, same ? bounds : never);
            store(negative + i, (same | empty) ? never : bounds);
            found |= same;
        }
        return bits(found) != 0;
    }

    /// Takes what may be the nearest slot out of a block of bounds above.
    void take(int64_t row, const float* upper, const float* off, int64_t at, int64_t count,
              Candidates& candidates) const {
        const CodedQuery& query = coded_queries[row];
        if (candidates.least() == LOWEST) {
            Floats highest = all(LOWEST);
            for (int64_t i = 0; i < count; i += LANES)
                highest = greater(highest, load(upper + i) - 2 * off_by(query, load(off + i)));
            float least = LOWEST;
            for (int lane = 0; lane < LANES; ++lane) least = std::max(least, highest[lane]);
            candidates.demand(least);
        }
        candidates.take(upper, count, int32_t(at));
        if (candidates.count > FEWEST) {
            candidates.demand(highest_below(query, candidates));
            candidates.keep_from(candidates.least());
        }
    }

    /// The highest bound below a score.
    float highest_below(const CodedQuery& query, const Candidates& candidates) const {
        float highest = LOWEST;
        for (int64_t i = 0; i < candidates.count; ++i) {
            const float off = codes.off[candidates.slots[i]] * query.length + query.off;
            highest = std::max(highest, candidates.scores[i] - 2 * off);
        }
        return highest;
    }

    /// The slot with the highest exact score, of equal ones the lowest; EMPTY if there is none.
    int64_t best_of(int64_t row, const Candidates& candidates) const {
        static thread_local std::vector<float> scores;
        scores.resize(std::max(scores.size(), candidates.scores.size()));
        score_candidates(queries[row], keys, candidates, scores.data());
        float least = -INFINITE;
        for (int64_t i = 0; i < candidates.count; ++i) least = std::max(least, scores[i]);
        least -= tolerance;
        float highest = -INFINITE;
        int64_t best = EMPTY;
        for (int64_t i = 0; i < candidates.count; ++i) {
            if (scores[i] < least) continue;
            const int64_t slot = candidates.slots[i];
            const float score = exact_score(queries[row], keys[slot], keys.dim);
            if (score > highest) highest = score, best = slot;
        }
        return best;
    }

    /// Whether codes leave few enough slots in question; then their nearest are written down.
    bool answer(int64_t row, Sides& sides, int64_t& positive, int64_t& negative) const {
        for (Candidates* some : {&sides.positive, &sides.negative})
            some->keep_from(highest_below(coded_queries[row], *some));
        if (sides.too_many(most())) return false;
        positive = best_of(row, sides.positive);
        negative = best_of(row, sides.negative);
        return true;
    }

    /// Answers some queries without codes.
    void answer_without(const std::vector<int64_t>& rows, int threads, int64_t* positive,
                        int64_t* negative) const {
        const int64_t count = int64_t(rows.size());
        const std::vector<float> some = gathered(queries, rows);
        std::vector<int64_t> their_labels(count), found(2 * count);
        for (int64_t i = 0; i < count; ++i) their_labels[i] = labels[rows[i]];
        rarememory_nearest_pair(some.data(), count, keys.numbers, keys.count, keys.dim, values,
                                their_labels.data(), tolerance, threads, found.data(),
                                found.data() + count);
        for (int64_t i = 0; i < count; ++i) {
            positive[rows[i]] = found[i];
            negative[rows[i]] = found[count + i];
        }
    }
};

}  // namespace

/// As `rarememory_nearest_pair`. Returns how many queries codes were of no use for; or STALE, and no
/// slots, where the code of one of the slots `sampled` is not of its key.
extern "C" int64_t rarememory_nearest_pair_coded(
    const float* queries, int64_t batch, const float* keys, int64_t slots, int64_t dim,
    const uint8_t* bytes, const float* steps, const float* off, const int64_t* values,
    const int64_t* labels, float tolerance, int threads, const int64_t* sampled, int64_t samples,
    int64_t* positive, int64_t* negative) {
    const Rows asked{queries, batch, dim}, searched{keys, slots, dim};
    const Codes codes{bytes, steps, off, slots, dim};
    for (int64_t i = 0; i < samples; ++i)
        if (!is_of_key(codes, searched, sampled[i])) return STALE;
    const CodedPair search{asked, searched, codes, values, labels, tolerance,
                           {asked, are_best_in_bytes(batch), false}};
    const int team = worth(threads, batch, slots, (BY_BYTES ? 1 : 2) * codes.quads());
    const Sharing sharing(slots, 2048, team);
    const int64_t parts = sharing.parts;
    std::vector<Sides> sides(parts * batch);
    sharing.each([&](int64_t begin, int64_t end, int64_t part, int64_t share) {
        search.offer(begin, end, share, sharing.shares, &sides[part * batch]);
    });
    std::vector<char> answered(batch);
    for_each(batch, batch > 1 ? team : 1, [&](int64_t row) {
        // A query that is not finite has no nearest slot.
        bool known = search.coded_queries[row].held || !finite(asked[row], dim);
        const int64_t most = search.most() + search.block_size();
        for (int64_t part = 0; part < parts; ++part) {
            known &= !sides[part * batch + row].too_many(most);
            if (part > 0) sides[row].join(sides[part * batch + row]);
        }
        answered[row] = known && search.answer(row, sides[row], positive[row], negative[row]);
    });
    std::vector<int64_t> left;
    for (int64_t row = 0; row < batch; ++row)
        if (!answered[row]) left.push_back(row);
    if (!left.empty()) search.answer_without(left, threads, positive, negative);
    return int64_t(left.size());
}
