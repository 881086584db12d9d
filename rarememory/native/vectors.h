// What the searches stand on: vectors of one coordinate of several queries, and the scores of a tile
// of keys, computed in registers.
//
// Queries are packed so that a vector holds one coordinate of LANES queries, and a tile of TILE keys
// is multiplied with it at once: nearly every instruction is a multiplication and addition. A score is
// a sum in the key's own order, the same wherever the key lies.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "kernels.h"

namespace rarememory {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int LANES = 16, TILE = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8, TILE = 8;
#else
constexpr int LANES = 4, TILE = 8;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4)));

// Queries that are few share a vector of this many: a wider one would take longer and be half empty.
constexpr int FEW_LANES = std::min(LANES, 8);
typedef float FewFloats __attribute__((vector_size(4 * FEW_LANES)));

constexpr float INFINITE = std::numeric_limits<float>::infinity();
constexpr float LOWEST = -2;  // below any cosine
constexpr int64_t EMPTY = -1;
constexpr int64_t UNSAFE = -2;  // of a call that did nothing

inline Floats all(float x) { return x - Floats{}; }
inline Ints all(int32_t x) { return x - Ints{}; }
inline Floats greater(Floats a, Floats b) { return a > b ? a : b; }
inline Floats lesser(Floats a, Floats b) { return a < b ? a : b; }

template <class Vector>
inline Vector load_as(const float* numbers) {
    typedef Vector UnalignedVector __attribute__((aligned(4)));
    return *(const UnalignedVector*)numbers;
}
inline Floats load(const float* numbers) { return load_as<Floats>(numbers); }
inline void store(float* numbers, Floats x) { *(Unaligned*)numbers = x; }

/// Lanes of `a` (places from 0) and of `b` (from LANES on).
inline Floats shuffled(Floats a, Floats b, Ints places) {
#ifdef __clang__
    Floats chosen;
    for (int lane = 0; lane < LANES; ++lane)
        chosen[lane] = places[lane] < LANES ? a[places[lane]] : b[places[lane] - LANES];
    return chosen;
#else
    return __builtin_shuffle(a, b, places);
#endif
}

/// One bit for each lane that is true.
inline uint32_t bits(Ints mask) {
#if defined(__AVX512DQ__)
    return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)mask);
#else
    uint32_t found = 0;
    for (int lane = 0; lane < LANES; ++lane) found |= uint32_t(mask[lane] != 0) << lane;
    return found;
#endif
}

inline Ints ascending(int32_t first) {
    Ints places;
    for (int lane = 0; lane < LANES; ++lane) places[lane] = first + lane;
    return places;
}

#if defined(__AVX2__) && !defined(__AVX512F__)
/// For each mask of eight lanes the lanes that are in it, a byte each, then the others.
struct Packing {
    uint64_t order[256];

    constexpr Packing() : order() {
        for (int mask = 0; mask < 256; ++mask) {
            int place = 0;
            for (int is_in = 1; is_in >= 0; --is_in)
                for (uint64_t lane = 0; lane < 8; ++lane)
                    if ((mask >> lane & 1) == is_in) order[mask] |= lane << 8 * place++;
        }
    }
};
constexpr Packing PACKING;
#endif

/// Writes the numbers that are wanted, and their places, one after the other; returns how many.
/// A whole vector is written each time, so there has to be room for one.
inline int pack(Floats numbers, Ints wanted, Ints places, float* to, int32_t* places_to) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    const __mmask16 mask = _mm512_movepi32_mask((__m512i)wanted);
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(mask, (__m512)numbers));
    _mm512_storeu_si512(places_to, _mm512_maskz_compress_epi32(mask, (__m512i)places));
    return __builtin_popcount(mask);
#elif defined(__AVX2__)
    const uint32_t mask = bits(wanted);
    const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(PACKING.order[mask])));
    _mm256_storeu_ps(to, _mm256_permutevar8x32_ps((__m256)numbers, order));
    _mm256_storeu_si256((__m256i*)places_to, _mm256_permutevar8x32_epi32((__m256i)places, order));
    return __builtin_popcount(mask);
#else
    int count = 0;
    for (int lane = 0; lane < LANES; ++lane)
        if (wanted[lane]) {
            to[count] = numbers[lane];
            places_to[count++] = places[lane];
        }
    return count;
#endif
}

inline int pack(Floats numbers, Ints wanted, int32_t first, float* to, int32_t* places_to) {
    return pack(numbers, wanted, ascending(first), to, places_to);
}

/// Keys or queries, [count, dim], row by row; or, where there are `places`, the rows at these.
struct Rows {
    const float* numbers;
    int64_t count, dim;
    const int32_t* places = nullptr;
    int64_t place(int64_t row) const { return places ? places[row] : row; }
    const float* operator[](int64_t row) const { return numbers + place(row) * dim; }
};

#if defined(__AVX2__)
inline __m256d four(const float* numbers) { return _mm256_cvtps_pd(_mm_loadu_ps(numbers)); }
inline __m256d four(const double* numbers) { return _mm256_loadu_pd(numbers); }
#endif

#if defined(__AVX512F__)
// With a mask of all: without one GCC warns of what it leaves undefined.
inline __m512d eight(const float* numbers) {
    return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(numbers));
}
inline __m512d eight(const double* numbers) { return _mm512_loadu_pd(numbers); }
#endif

/// The scores that decide where rounding could, of N keys: sums in doubles, rounded once. A product
/// of two floats is exact in doubles, and there are eight sums everywhere, so these are the same
/// everywhere. `Query` is of floats, or of doubles where it is asked for many keys.
template <int N, class Query>
inline void exact_scores(const Query* query, const float* const* keys, int64_t dim, float* scores) {
    double sums[N][8] = {};
    int64_t d = 0;
#if defined(__AVX512F__)
    __m512d all[N] = {};
    for (; d + 8 <= dim; d += 8)
        for (int i = 0; i < N; ++i) all[i] += eight(query + d) * eight(keys[i] + d);
    for (int i = 0; i < N; ++i) _mm512_storeu_pd(sums[i], all[i]);
#elif defined(__AVX2__)
    __m256d low[N] = {}, high[N] = {};
    for (; d + 8 <= dim; d += 8)
        for (int i = 0; i < N; ++i) {
            low[i] += four(query + d) * four(keys[i] + d);
            high[i] += four(query + d + 4) * four(keys[i] + d + 4);
        }
    for (int i = 0; i < N; ++i) {
        _mm256_storeu_pd(sums[i], low[i]);
        _mm256_storeu_pd(sums[i] + 4, high[i]);
    }
#endif
    for (; d < dim; ++d)
        for (int i = 0; i < N; ++i) sums[i][d % 8] += double(query[d]) * keys[i][d];
    for (int i = 0; i < N; ++i) {
        double sum = 0;
        for (double part : sums[i]) sum += part;
        scores[i] = float(sum);
    }
}

inline float exact_score(const float* query, const float* key, int64_t dim) {
    float score;
    exact_scores<1>(query, &key, dim, &score);
    return score;
}

/// The sum of x[i]² times a weight: eight sums in doubles, the same everywhere.
template <class Weight>
inline double sum_of_squares(const float* x, int64_t count, Weight weight) {
    double sums[8] = {}, sum = 0;
    int64_t i = 0;
    // Eight at a time become vectors.
    for (; i + 8 <= count; i += 8)
        for (int j = 0; j < 8; ++j) sums[j] += double(x[i + j]) * x[i + j] * weight(i + j);
    for (; i < count; ++i) sums[i % 8] += double(x[i]) * x[i] * weight(i);
    for (double part : sums) sum += part;
    return sum;
}

inline double sum_of_squares(const float* x, int64_t count) {
    return sum_of_squares(x, count, [](int64_t) { return 1.0; });
}

inline bool finite(const float* numbers, int64_t count) {
    bool all_finite = true;
    for (int64_t i = 0; i < count; ++i) all_finite &= numbers[i] - numbers[i] == 0;
    return all_finite;
}

/// Whether a vector of this length can be squared in float32 without overflow or a loss of digits.
inline bool is_safe(double length) { return length > 1e-15 && length < 1e15; }

/// Whether a row can be written that has this label, and this slot nearest to it.
inline bool is_writable(const float* query, int64_t dim, int64_t label, int64_t slot,
                        int64_t slots) {
    return label >= 0 && slot >= EMPTY && slot < slots && finite(query, dim) &&
           !std::all_of(query, query + dim, [](float x) { return x == 0; });
}

/// Queries from the first one on, [dim, width]; a lane without a finite query is NaN, and a score of
/// NaN finds nothing.
inline std::vector<float> packed(Rows queries, int64_t first, int width = LANES) {
    std::vector<float> lanes(queries.dim * width, std::numeric_limits<float>::quiet_NaN());
    for (int lane = 0; lane < width && first + lane < queries.count; ++lane) {
        const float* query = queries[first + lane];
        if (!finite(query, queries.dim)) continue;
        for (int64_t d = 0; d < queries.dim; ++d) lanes[d * width + lane] = query[d];
    }
    return lanes;
}

/// Scores of N keys in a row, a vector of queries each.
template <int N, class Vector>
inline void score(const float* keys, int64_t dim, const float* lanes, Vector* scores) {
    constexpr int64_t WIDTH = sizeof(Vector) / sizeof(float);
    Vector sums[N] = {};
    for (int64_t d = 0; d < dim; ++d) {
        const Vector query = load_as<Vector>(lanes + d * WIDTH);
        // The next tile is asked for, a cache line at a time, while this one is multiplied.
        if (d % 16 == 0)
            for (int row = 0; row < N; ++row) __builtin_prefetch(keys + (N + row) * dim + d);
        for (int row = 0; row < N; ++row) sums[row] += keys[row * dim + d] * query;
    }
    for (int row = 0; row < N; ++row) scores[row] = sums[row];
}

/// The same of keys that do not lie in a row.
template <int N, class Vector>
inline void score_places(Rows keys, int64_t first, const float* lanes, Vector* scores) {
    constexpr int64_t WIDTH = sizeof(Vector) / sizeof(float);
    const float *rows[N], *later[N];
    for (int row = 0; row < N; ++row) {
        rows[row] = keys[first + row];
        later[row] = keys[std::min(first + row + N, keys.count - 1)];
    }
    Vector sums[N] = {};
    for (int64_t d = 0; d < keys.dim; ++d) {
        const Vector query = load_as<Vector>(lanes + d * WIDTH);
        if (d % 16 == 0)
            for (int row = 0; row < N; ++row) __builtin_prefetch(later[row] + d);
        for (int row = 0; row < N; ++row) sums[row] += rows[row][d] * query;
    }
    for (int row = 0; row < N; ++row) scores[row] = sums[row];
}

/// Calls `visit(slot, scores, N)` for tile after tile of N keys, from one slot up to another.
template <class Vector = Floats, class Visit>
inline void stream(Rows keys, int64_t begin, int64_t end, const float* lanes, Visit visit) {
    Vector scores[TILE];
    int64_t slot = begin;
    for (; slot + TILE <= end; slot += TILE) {
        if (keys.places) score_places<TILE>(keys, slot, lanes, scores);
        else score<TILE>(keys[slot], keys.dim, lanes, scores);
        visit(slot, scores, std::integral_constant<int, TILE>());
    }
    for (; slot < end; ++slot) {
        score<1>(keys[slot], keys.dim, lanes, scores);
        visit(slot, scores, std::integral_constant<int, 1>());
    }
}

}  // namespace rarememory
