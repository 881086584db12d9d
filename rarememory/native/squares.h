// Turning over: what lies in the lanes of several vectors, brought into one.

#pragma once

#include <type_traits>

#include "vectors.h"

namespace rarememory {

/// Of two rows of a square: lanes whose bit `Step` differs from the row's own change places.
template <int Step, class Vector>
inline void exchange(Vector& a, Vector& b) {
    Ints from_a, from_b;
    for (int lane = 0; lane < LANES; ++lane) {
        from_a[lane] = lane & Step ? LANES + (lane ^ Step) : lane;
        from_b[lane] = lane & Step ? LANES + lane : lane ^ Step;
    }
    const Floats first = shuffled((Floats)a, (Floats)b, from_a);
    b = (Vector)shuffled((Floats)a, (Floats)b, from_b);
    a = (Vector)first;
}

/// Calls `pass` with 1, 2, 4, ... up to half of so many rows.
template <int ROWS = LANES, class Pass>
inline void each_step(Pass pass) {
    pass(std::integral_constant<int, 1>());
    pass(std::integral_constant<int, 2>());
    if constexpr (ROWS > 4) pass(std::integral_constant<int, 4>());
    if constexpr (ROWS > 8) pass(std::integral_constant<int, 8>());
}

/// Turns squares that lie side by side over, each of ROWS rows: rows of lanes become lanes of rows.
template <int ROWS = LANES>
inline void transpose(Floats* squares) {
    auto pass = [&](auto step) {
        for (int row = 0; row < ROWS; ++row)
            if (!(row & step)) exchange<step>(squares[row], squares[row | step]);
    };
    each_step<ROWS>(pass);
}

/// Turns LANES vectors over: vector i has what lane i of each has, in order.
inline void transpose_into(Floats* turned, const Floats* rows) {
    std::copy_n(rows, LANES, turned);
    transpose(turned);
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)
inline void transpose_into(Floats* turned, const FewFloats* rows) {
    for (int row = 0; row < FEW_LANES; ++row)
        turned[row] = (Floats)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)rows[row]),
                                                 (__m256)rows[row + FEW_LANES], 1);
    transpose<FEW_LANES>(turned);
}
#endif

/// Of LANES vectors the sum of each one's lanes.
template <class Vector>
inline Vector sums_of(Vector* rows) {
    auto pass = [&](auto step) {
        for (int row = 0; row < LANES; row += 2 * step) {
            exchange<step>(rows[row], rows[row + step]);
            rows[row] += rows[row + step];
        }
    };
    each_step(pass);
    return rows[0];
}

/// Scores of `count` keys for one query, in whole vectors. `key` says where each lies, and `soon`
/// where what is read a little later does.
template <class Key, class Soon>
inline void score_rows(const float* query, int64_t dim, int64_t count, Key key, Soon soon,
                       float* scores) {
    constexpr int PAIR = 2 * LANES;  // two sums, so that one need not wait for the other
    const int64_t whole = dim / PAIR * PAIR;
    for (int64_t first = 0; first < count; first += LANES) {
        const int64_t rows = std::min<int64_t>(LANES, count - first);
        Floats sums[LANES] = {};
        // Key after key, as they lie in memory, and asking for those to come.
        for (int row = 0; row < rows; ++row) {
            const float* numbers = key(first + row);
            const float* later = soon(first + row);
            Floats even = {}, odd = {};
            for (int64_t d = 0; d < whole; d += PAIR) {
                __builtin_prefetch(later + d);
                __builtin_prefetch(later + d + LANES);
                even += load(numbers + d) * load(query + d);
                odd += load(numbers + d + LANES) * load(query + d + LANES);
            }
            sums[row] = even + odd;
            for (int64_t d = whole; d < dim; ++d) sums[row][0] += numbers[d] * query[d];
        }
        store(scores + first, sums_of(sums));
    }
}

}  // namespace rarememory
