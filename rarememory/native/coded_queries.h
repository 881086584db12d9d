// Queries in whole numbers, and bounds of their scores by the codes of keys: what the searches by
// codes have in common.

#pragma once

#include <cmath>

#include "candidates.h"
#include "listed_codes.h"
#include "parallel.h"
#include "squares.h"

namespace rarememory {

constexpr int AT_ONCE = LANES == 16 ? 8 : 4;  // queries that a key is multiplied with
constexpr int ROW = 4 * LANES;                // threads part the slots at multiples of it
constexpr int BLOCK = 8192;                   // bounds for a query alone that are held at a time
constexpr int AHEAD = 8;                      // keys to ask for before one is read
constexpr int64_t STALE = -1;

/// Whether a code is of its key: who changed the key, and not the code, has moved it farther than
/// the code is off.
inline bool is_of_key(const Codes& codes, Rows keys, int64_t slot) {
    if (codes.off[slot] >= FAR) return true;
    const uint8_t* bytes = codes.from(slot / LANES * LANES) + slot % LANES * 4;
    double squares = 0;
    for (int64_t d = 0; d < keys.dim; ++d) {
        const int code = bytes[d / 4 * 4 * LANES + d % 4] - ZERO;
        const double difference = keys[slot][d] - double(codes.steps[slot]) * code;
        squares += difference * difference;
    }
    return std::sqrt(squares) <= codes.off[slot];
}

/// What the scores of some keys by codes are off by at most.
inline Floats off_by(const CodedQuery& query, Floats keys_off) {
    return keys_off * query.length + query.off;
}

/// Whether queries of a byte a number leave few slots in question and take less time than of two: a
/// query alone waits for the codes rather than for the products.
inline bool are_best_in_bytes(int64_t batch) {
    return BY_PAIRS_OF_BYTES || (BY_BYTES && batch > 1);
}

/// The scores of candidates in float32, padded to whole vectors.
inline void score_candidates(const float* query, Rows keys, const Candidates& some, float* scores) {
    auto key = [&](int64_t i) { return keys[some.slots[i]]; };
    auto soon = [&](int64_t i) { return key(std::min(i + AHEAD, some.count - 1)); };
    score_rows(query, keys.dim, some.count, key, soon, scores);
}

/// Some of the queries, one after the other.
inline std::vector<float> gathered(Rows queries, const std::vector<int64_t>& rows) {
    std::vector<float> some(rows.size() * queries.dim);
    for (size_t i = 0; i < rows.size(); ++i)
        std::copy_n(queries[rows[i]], queries.dim, &some[i * queries.dim]);
    return some;
}

/// Threads that share the slots and, where those are few for that, the queries.
struct Sharing {
    int64_t count, parts, shares;
    int team;

    /// `enough` slots are worth a thread of their own.
    Sharing(int64_t slots, int64_t enough, int threads)
        : count(slots), parts(std::max<int64_t>(1, std::min<int64_t>(threads, slots / enough))),
          shares(threads / parts), team(threads) {}

    /// Calls `offer(begin, end, part, share)` for slots from one up to another.
    template <class Offer>
    void each(Offer offer) const {
        const int64_t rounds = (count + ROW - 1) / ROW;
        for_each(parts * shares, team, [&](int64_t work) {
            const int64_t part = work % parts;
            offer(rounds * part / parts * ROW, std::min(rounds * (part + 1) / parts * ROW, count),
                  part, work / parts);
        });
    }
};

/// Queries in whole numbers, a tile of them in turns.
struct CodedQueries {
    Rows queries;
    bool in_bytes;  // whether they are coded in a byte a number, and not in two
    bool in_rows;   // whether the one query is multiplied with rows of codes
    std::vector<CodedQuery> coded_queries;
    std::vector<std::vector<int32_t>> tiles;

    CodedQueries(Rows asked, bool bytes, bool listed)
        : queries(asked), in_bytes(bytes), in_rows(listed && asked.count == 1) {
        const int most = in_bytes ? ONE_BYTE : TWO_BYTES;
        const int64_t halves = (queries.dim + 3) / 4 * 2;
        coded_queries.resize((queries.count + tile() - 1) / tile() * tile());
        for (int64_t row = 0; row < int64_t(coded_queries.size()); ++row) {
            if (row % tile() == 0) tiles.emplace_back(halves * tile());
            if (row >= queries.count) continue;
            coded_queries[row] = coded(queries[row], queries.dim, most);
            for (int64_t i = 0; i < halves; ++i)
                tiles.back()[i * tile() + row % tile()] = coded_queries[row].halves[i];
        }
        if (in_rows) tiles[0] = halves_in_rows(coded_queries[0], queries.dim);
    }

    const CodedQuery& operator[](int64_t row) const { return coded_queries[row]; }
    bool alone() const { return queries.count == 1; }
    int64_t tile() const { return alone() ? 1 : AT_ONCE; }

    /// Bounds above the scores of `count` keys for the tile from row `first` on, [tile, size]; up to
    /// a whole vector -infinity.
    void bound_tile(const Codes& some, int64_t count, int64_t first, int64_t size,
                    float* upper) const {
        if (some.places && in_bytes) bound<1, 1, false>(some, count, first, size, upper);
        else if (some.places) bound<1, 1, true>(some, count, first, size, upper);
        else if (alone() && in_bytes) bound<1, 4, false>(some, count, first, size, upper);
        else if (alone()) bound<1, 4, true>(some, count, first, size, upper);
        else if (in_bytes) bound<AT_ONCE, 2, false>(some, count, first, size, upper);
        else bound<AT_ONCE, 1, true>(some, count, first, size, upper);
        for (int64_t row = 0; row < tile(); ++row)
            for (int64_t i = count; i % LANES; ++i) upper[row * size + i] = -INFINITE;
    }

   private:
    template <int QUERIES, int GROUPS, bool BOTH>
    void bound(const Codes& some, int64_t count, int64_t first, int64_t size, float* upper) const {
        Words products[QUERIES * GROUPS];
        const int32_t* halves = tiles[first / QUERIES].data();
        for (int64_t slot = 0; slot < count; slot += GROUPS * LANES) {
            if (QUERIES == 1 && some.places)
                products[0] = multiply_rows<BOTH>(some, slot, halves);
            else multiply<GROUPS, QUERIES, BOTH>(some, slot, halves, products);
            for (int row = 0; row < QUERIES; ++row)
                for (int group = 0; group < GROUPS; ++group) {
                    const CodedQuery& query = coded_queries[first + row];
                    const int64_t here = slot + group * LANES;
                    const Ints product = (Ints)(products[row * GROUPS + group] - query.zeros);
                    const Floats score = __builtin_convertvector(product, Floats) *
                                         (load(some.steps + here) * query.step);
                    store(upper + row * size + here, score + off_by(query, load(some.off + here)));
                }
        }
    }
};

}  // namespace rarememory
