// The nearest slot of the positive value, and the nearest of a negative one: running maxima in registers.

#include "calls.h"
#include "parallel.h"
#include "squares.h"
#include "vectors.h"

using namespace rarememory;

namespace {

constexpr int64_t BLOCK = 512;  // scores of a query alone that are held at a time
constexpr int64_t SOON = 512;   // numbers ahead of those that are being read

/// Of each lane the highest score so far and its slot, and the highest score but one.
struct Best {
    Floats first = all(-INFINITE), second = all(-INFINITE);
    Ints slot = all(int32_t(EMPTY));

    void meet(Floats scores, int32_t at) {
        second = greater(lesser(first, scores), second);
        slot = scores > first ? all(at) : slot;
        first = greater(scores, first);
    }

    /// What another has met in later slots.
    void join(const Best& later) {
        second = greater(greater(second, later.second), lesser(first, later.first));
        slot = later.first > first ? later.slot : slot;
        first = greater(later.first, first);
    }

    /// Lanes in which rounding may have chosen the negative slot.
    Ints unsure(float tolerance) const {
        return (first > LOWEST) & (second >= first - tolerance);
    }
};

struct Pair {
    Best positive, negative;

    void join(const Pair& later) {
        positive.join(later.positive);
        negative.join(later.negative);
    }
};

/// The labels of LANES queries, in halves that fit the lanes.
struct Labels {
    Ints low, high;

    Labels(const int64_t* labels, int64_t first, int64_t count) {
        for (int lane = 0; lane < LANES; ++lane) {
            int64_t label = first + lane < count ? labels[first + lane] : EMPTY;
            low[lane] = int32_t(label);
            high[lane] = int32_t(label >> 32);
        }
    }

    Ints are(int64_t value) const {
        return (low == int32_t(value)) & (high == int32_t(value >> 32));
    }
};

struct Search {
    Rows queries, keys;
    const int64_t *values, *labels;
    float tolerance;
    int64_t *positive, *negative;

    Pair between(int64_t begin, int64_t end, const float* lanes, const Labels& asked) const {
        Pair pair;
        stream(keys, begin, end, lanes, [&](int64_t slot, const Floats* scores, auto n) {
            for (int row = 0; row < n; ++row) {
                int64_t value = values[slot + row];
                if (value == EMPTY) continue;
                Ints same = asked.are(value);
                pair.negative.meet(same ? all(-INFINITE) : scores[row], int32_t(slot + row));
                if (bits(same))
                    pair.positive.meet(same ? scores[row] : all(-INFINITE), int32_t(slot + row));
            }
        });
        return pair;
    }

    /// The same for a query alone, in one lane: a vector holds LANES coordinates of a key.
    Pair alone_between(int64_t begin, int64_t end) const {
        Pair pair;
        if (!finite(queries[0], keys.dim)) return pair;
        float scores[BLOCK];
        for (int64_t at = begin; at < end; at += BLOCK) {
            const int64_t count = std::min(BLOCK, end - at);
            score_rows(
                queries[0], keys.dim, count, [&](int64_t i) { return keys[at + i]; },
                [&](int64_t i) { return keys[at + i] + SOON; }, scores);
            for (int64_t i = 0; i < count; ++i) {
                Best& best = values[at + i] == labels[0] ? pair.positive : pair.negative;
                if (scores[i] > best.second[0] && values[at + i] != EMPTY)
                    best.meet(all(scores[i]), int32_t(at + i));
            }
        }
        return pair;
    }

    void answer(int64_t first, const float* lanes, const Pair& pair) const {
        for (int lane = 0; lane < LANES && first + lane < queries.count; ++lane) {
            positive[first + lane] = pair.positive.slot[lane];
            negative[first + lane] = pair.negative.slot[lane];
        }
        Ints unsure[2] = {pair.positive.unsure(tolerance), pair.negative.unsure(tolerance)};
        if (bits(unsure[0] | unsure[1])) settle(first, lanes, pair, unsure);
    }

    /// Looks at all slots again, and lets exact scores decide among those within rounding.
    void settle(int64_t first, const float* lanes, const Pair& pair, const Ints* unsure) const {
        // Nothing reaches the threshold of a lane that is sure.
        Floats never = all(INFINITE);
        Floats least[2] = {unsure[0] ? pair.positive.first - tolerance : never,
                           unsure[1] ? pair.negative.first - tolerance : never};
        float highest[2][LANES];
        std::fill_n(&highest[0][0], 2 * LANES, -INFINITE);
        stream(keys, 0, keys.count, lanes, [&](int64_t slot, const Floats* scores, auto n) {
            for (int row = 0; row < n; ++row) {
                int64_t value = values[slot + row];
                uint32_t near = bits((scores[row] >= least[0]) | (scores[row] >= least[1]));
                for (; value != EMPTY && near; near &= near - 1) {
                    int lane = __builtin_ctz(near);
                    int side = value != labels[first + lane];
                    if (!(scores[row][lane] >= least[side][lane])) continue;
                    float sure = exact_score(queries[first + lane], keys[slot + row], keys.dim);
                    if (!(sure > highest[side][lane])) continue;
                    highest[side][lane] = sure;
                    (side ? negative : positive)[first + lane] = slot + row;
                }
            }
        });
    }
};

}  // namespace

extern "C" void rarememory_nearest_pair(const float* queries, int64_t batch, const float* keys,
                                        int64_t slots, int64_t dim, const int64_t* values,
                                        const int64_t* labels, float tolerance, int threads,
                                        int64_t* positive, int64_t* negative) {
    const Search search{{queries, batch, dim}, {keys, slots, dim}, values, labels,
                        tolerance,             positive,              negative};
    const int64_t groups = (batch + LANES - 1) / LANES;
    threads = worth(threads, batch, slots, dim);
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, slots / 512));
    // Keys that stay in the cache while all groups of queries meet them.
    const int64_t block = std::max<int64_t>(TILE, (1 << 16) / dim / TILE * TILE);
    std::vector<std::vector<float>> lanes(groups);
    std::vector<Pair> pairs(groups * parts);
    const int sharing = groups > 1 ? threads : 1;
    for_each(groups, sharing, [&](int64_t group) {
        lanes[group] = packed(search.queries, group * LANES);
    });
    for_each(parts, int(parts), [&](int64_t part) {
        const int64_t end = slots * (part + 1) / parts;
        if (batch == 1) pairs[part] = search.alone_between(slots * part / parts, end);
        else for (int64_t at = slots * part / parts; at < end; at += block)
            for (int64_t group = 0; group < groups; ++group)
                pairs[group * parts + part].join(
                    search.between(at, std::min(at + block, end), lanes[group].data(),
                                   Labels(labels, group * LANES, batch)));
    });
    for_each(groups, sharing, [&](int64_t group) {
        Pair& pair = pairs[group * parts];
        for (int64_t part = 1; part < parts; ++part) pair.join(pairs[group * parts + part]);
        search.answer(group * LANES, lanes[group].data(), pair);
    });
}
