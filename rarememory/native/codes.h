// Codes of the keys: a byte for each number, so that a search reads a quarter of the memory.
//
// A number of a key is nearly step * (code - ZERO), with one step a key. How far the coded key is off
// is kept beside it, so that a score by codes says between which bounds the true one lies.
//
// The codes of LANES keys, a group, lie together: four numbers of each key, then the next four of
// each. So a lane is a key, and no sum goes across lanes.

#pragma once

#include <cmath>

#include "vectors.h"

namespace rarememory {

constexpr int ZERO = 128;        // the code of 0
constexpr int CODES = 127;       // on either side of it
constexpr float LONGEST = 1.01f;  // of a coded key; a key of unit length never is longer
constexpr int SOON = 32;          // rows to ask for before one is read
constexpr float FAR = 8;          // off by this, a score may be above or below all others

/// Codes of all slots, up to a whole number of groups; slots that are none have code ZERO.
struct Codes {
    const uint8_t* bytes;
    const float* steps;
    const float* off;  // length of what a key and its code differ by
    int64_t slots, dim;
    const uint8_t* rows = nullptr;  // the bytes of each slot side by side, if they are kept so too
    const int32_t* places = nullptr;  // of the rows, if these are to be read

    int64_t quads() const { return (dim + 3) / 4; }
    const uint8_t* from(int64_t slot) const { return bytes + slot * 4 * quads(); }
    const uint8_t* row(int64_t slot) const { return rows + slot * row_size(dim); }
    /// From a slot on, which is the first one of a group.
    Codes after(int64_t slot) const {
        return {from(slot), steps + slot, off + slot, slots - slot, dim};
    }
    /// The rows of LANES listed slots, the last one as often as there are too few.
    void rows_from(int64_t first, const uint8_t** found) const {
        for (int64_t lane = 0; lane < LANES; ++lane) {
            found[lane] = row(places[std::min(first + lane, slots - 1)]);
            const uint8_t* later = row(places[std::min(first + lane + SOON, slots - 1)]);
            for (int64_t d = 0; d < dim; d += 64) __builtin_prefetch(later + d);
        }
    }
    /// A row begins with a cache line.
    static int64_t row_size(int64_t dim) { return (dim + 63) / 64 * 64; }
};

/// A query in whole numbers, two words for four of them: their halves (see halve).
struct CodedQuery {
    std::vector<int32_t> halves;
    uint32_t zeros;  // what ZERO adds to a product
    float step;
    float length;  // bounds what a key is off by, times this,
    float off;     // and this, which is of the query itself and of rounding
    bool held;     // whether it is a query that codes can serve
};

typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint32_t UnalignedWords __attribute__((vector_size(4 * LANES), aligned(4)));

/// Whether four bytes are multiplied with four bytes at once, so that a whole number of a query has
/// a high and a low one; else two halves are with two halves, the even and the odd ones of four.
#if (defined(__AVX512VNNI__) && defined(__AVX512DQ__)) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
constexpr bool BY_BYTES = true;
#else
constexpr bool BY_BYTES = false;
#endif

/// Whether pairs of bytes are multiplied with pairs of bytes at once, and summed in 16 bits: a query
/// in one byte a number then has to do with 7 bits of it.
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(__AVXVNNI__)
constexpr bool BY_PAIRS_OF_BYTES = true;
#else
constexpr bool BY_PAIRS_OF_BYTES = false;
#endif

constexpr int ONE_BYTE = BY_PAIRS_OF_BYTES ? 63 : CODES;  // 2 * 255 * 63 is less than 2^15
constexpr int TWO_BYTES = 32639;  // 256 * 127 + 127, the most that two signed bytes hold

/// The two halves of four whole numbers of a query.
inline void halve(const int* four, bool in_bytes, int32_t* halves) {
    uint32_t first = 0, second = 0;
    for (int i = 0; i < 4; ++i) {
        const int low = int8_t(four[i] & 255), high = (four[i] - low) / 256;
        if (in_bytes) {
            first |= uint32_t(uint8_t(high)) << 8 * i;
            second |= uint32_t(uint8_t(low)) << 8 * i;
        } else (i % 2 ? second : first) |= uint32_t(uint16_t(four[i])) << i / 2 * 16;
    }
    halves[0] = int32_t(first), halves[1] = int32_t(second);
}

/// A query in as many steps as a sum of products over all numbers of a key has room for, and at
/// most so many on either side of 0.
inline CodedQuery coded(const float* query, int64_t dim, int most) {
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
    made.held = levels > 0 && made.length > 0.5f && made.length <= LONGEST;
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
        halve(four, BY_BYTES || most == ONE_BYTE, &made.halves[2 * quad]);
    }
    // A score and its bounds are rounded a few times, each time by less than 2^-22 of their parts.
    made.off = LONGEST * float(std::sqrt(squares_off)) + 0x1p-19f * made.length;
    return made;
}

/// Adds to each lane the products of two numbers of 16 bits with two others.
inline Words add_pairs(Words sums, Words codes, Words pairs) {
#if defined(__AVX512BW__) && defined(__AVX512DQ__)
    return sums + (Words)_mm512_madd_epi16((__m512i)codes, (__m512i)pairs);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    return sums + (Words)_mm256_madd_epi16((__m256i)codes, (__m256i)pairs);
#elif defined(__SSE2__) && !defined(__AVX512F__)
    return sums + (Words)_mm_madd_epi16((__m128i)codes, (__m128i)pairs);
#else
    return sums + (codes & 0xffff) * (Words)((Ints)(pairs << 16) >> 16) +
           (codes >> 16) * (Words)((Ints)pairs >> 16);
#endif
}

/// Adds to each lane the products of its four codes with a half of four numbers.
inline Words add_products(Words sums, Words codes, Words numbers, bool second) {
#if defined(__AVX512VNNI__) && defined(__AVX512DQ__)
    return (Words)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, (__m512i)numbers);
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
    return (Words)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)codes,
                                          (__m256i)numbers);
#else
    return add_pairs(sums, (second ? codes >> 8 : codes) & 0x00ff00ff, numbers);
#endif
}

/// Adds to each lane the products of its four codes with four numbers of a byte.
inline Words add_bytes(Words sums, Words codes, Words numbers) {
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(__AVXVNNI__)
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)codes, (__m256i)numbers);
    return sums + (Words)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    return add_products(sums, codes, numbers, true);
#endif
}

/// Products of GROUPS groups of keys with QUERIES queries, whose halves lie side by side; with only
/// the second halves of them where the first are zero. Sums wrap around, but what they are in the
/// end, without the zeros, does not.
template <int GROUPS, int QUERIES, bool BOTH>
inline void multiply(const Codes& codes, int64_t slot, const int32_t* halves, Words* products) {
    Words first[QUERIES][GROUPS] = {}, second[QUERIES][GROUPS] = {};
    const int64_t quads = codes.quads();
    const uint8_t* bytes = codes.from(slot);
    for (int64_t quad = 0; quad < quads; ++quad, halves += 2 * QUERIES)
        for (int group = 0; group < GROUPS; ++group) {
            const uint8_t* here = bytes + (group * quads + quad) * 4 * LANES;
            const Words four = *(const UnalignedWords*)here;
            if (QUERIES == 1) __builtin_prefetch(here + GROUPS * quads * 4 * LANES);
            for (int query = 0; query < QUERIES; ++query) {
                Words &one = first[query][group], &other = second[query][group];
                const Words second_half = (Words)all(halves[QUERIES + query]);
                if (BOTH) one = add_products(one, four, (Words)all(halves[query]), false);
                other = BOTH ? add_products(other, four, second_half, true)
                             : add_bytes(other, four, second_half);
            }
        }
    for (int query = 0; query < QUERIES; ++query)
        for (int group = 0; group < GROUPS; ++group)
            products[query * GROUPS + group] =
                first[query][group] * (BY_BYTES ? 256 : 1) + second[query][group];
}

}  // namespace rarememory
