// Codes of the keys: a byte for each number, so that a search reads a quarter of the memory.
//
// A number of a key is nearly step * (code - ZERO), with one step a key. How far the coded key is off
// is kept beside it, so that a score by codes says between which bounds the true one lies.
//
// The codes of LANES keys, a group, lie together: four numbers of each key, then the next four of
// each. So a lane is a key, and no sum goes across lanes.

#pragma once

#include "vectors.h"

namespace rarememory {

constexpr int ZERO = 128;        // the code of 0
constexpr int CODES = 127;       // on either side of it
constexpr float LONGEST = 1.01f;  // of a coded key; a key of unit length never is longer
constexpr float FAR = 1e30f;     // as good as infinitely far off, but fit to calculate with

/// Codes of all slots, up to a whole number of groups; slots that are none have code ZERO.
struct Codes {
    const uint8_t* bytes;
    const float* steps;
    const float* off;  // length of what a key and its code differ by
    int64_t slots, dim;

    int64_t quads() const { return (dim + 3) / 4; }
    const uint8_t* from(int64_t slot) const { return bytes + slot * 4 * quads(); }
};

/// A query in whole numbers, in pairs: the even and the odd ones of four.
struct CodedQuery {
    std::vector<int32_t> pairs;
    uint32_t zeros;  // what ZERO adds to a product
    float step;
    float length;  // bounds what a key is off by, times this,
    float off;     // and this, which is of the query itself and of rounding
    bool held;     // whether it is a query that codes can serve
};

typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint32_t UnalignedWords __attribute__((vector_size(4 * LANES), aligned(4)));

/// Adds to each lane the products of two pairs of numbers of 16 bits.
inline Words add_products(Words sums, Words codes, int32_t pair) {
#if defined(__AVX512VNNI__) && defined(__AVX512DQ__)
    return (Words)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)codes, _mm512_set1_epi32(pair));
#elif defined(__AVX512BW__) && defined(__AVX512DQ__)
    return sums + (Words)_mm512_madd_epi16((__m512i)codes, _mm512_set1_epi32(pair));
#elif defined(__AVX2__) && !defined(__AVX512F__)
    return sums + (Words)_mm256_madd_epi16((__m256i)codes, _mm256_set1_epi32(pair));
#else
    return sums + (codes & 0xffff) * uint32_t(int16_t(pair)) +
           (codes >> 16) * uint32_t(int16_t(pair >> 16));
#endif
}

/// Products of GROUPS groups of keys with QUERIES queries, whose pairs lie side by side. Sums wrap
/// around, but what they are in the end, without the zeros, does not (CodedQuery).
template <int GROUPS, int QUERIES>
inline void multiply(const Codes& codes, int64_t slot, const int32_t* pairs, Words* products) {
    constexpr int CHAINS = QUERIES == 1 ? 2 : 1;  // so that one sum need not wait for the other
    Words sums[CHAINS][QUERIES][GROUPS] = {};
    const int64_t quads = codes.quads();
    const uint8_t* bytes = codes.from(slot);
    for (int64_t quad = 0; quad < quads; ++quad, pairs += 2 * QUERIES) {
        Words even[GROUPS], odd[GROUPS];
        for (int group = 0; group < GROUPS; ++group) {
            const Words four =
                *(const UnalignedWords*)(bytes + (group * quads + quad) * 4 * LANES);
            even[group] = four & 0x00ff00ff;
            odd[group] = four >> 8 & 0x00ff00ff;
        }
        for (int query = 0; query < QUERIES; ++query)
            for (int group = 0; group < GROUPS; ++group) {
                Words& of_even = sums[0][query][group];
                of_even = add_products(of_even, even[group], pairs[query]);
                Words& of_odd = sums[CHAINS - 1][query][group];
                of_odd = add_products(of_odd, odd[group], pairs[QUERIES + query]);
            }
    }
    for (int query = 0; query < QUERIES; ++query)
        for (int group = 0; group < GROUPS; ++group) {
            Words sum = sums[0][query][group];
            if (CHAINS == 2) sum += sums[CHAINS - 1][query][group];
            products[query * GROUPS + group] = sum;
        }
}

}  // namespace rarememory
