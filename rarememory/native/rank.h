// Neighbours of a query in the one order (higher score first, then lower slot), with their scores and
// values.

#pragma once

#include <cstring>

#include "vectors.h"

namespace rarememory {

/// A whole number that is lower the earlier a neighbour comes: its score turned over, then its slot,
/// where EMPTY is below all slots as it is among numbers.
inline uint64_t rank_of(float score, int64_t slot) {
    const float no_sign_of_zero = score + 0.0f;
    uint32_t word;
    std::memcpy(&word, &no_sign_of_zero, 4);
    const uint32_t ascending = word >> 31 ? ~word : word | 0x80000000u;
    return uint64_t(score == score ? ~ascending : 0) << 32 | uint32_t(slot + 1);
}

inline float score_of(uint64_t rank) {
    const uint32_t ascending = ~uint32_t(rank >> 32);
    const uint32_t word = ascending >> 31 ? ascending & 0x7fffffffu : ~ascending;
    float score;
    std::memcpy(&score, &word, 4);
    return score;
}

inline int64_t slot_of(uint64_t rank) { return int64_t(uint32_t(rank)) - 1; }

/// Sorts ranks: by a number of two bytes, one after the other, in which the scores are as far apart as
/// they can be, and which hardly two of them have in common.
class Sorter {
   public:
    std::vector<uint64_t> ranks;

    void sort() {
        if (ranks.size() <= FEW) return std::sort(ranks.begin(), ranks.end());
        lowest_ = ~uint32_t(0);
        uint32_t highest = 0;
        for (uint64_t rank : ranks) {
            lowest_ = std::min(lowest_, uint32_t(rank >> 32));
            highest = std::max(highest, uint32_t(rank >> 32));
        }
        // To divide is dear, and to multiply is not.
        per_score_ = (uint64_t(1) << 48) / (uint64_t(highest - lowest_) + 1);
        uint32_t ends[2][257] = {};
        for (uint64_t rank : ranks) {
            ++ends[0][number(rank) % 256 + 1];
            ++ends[1][number(rank) / 256 + 1];
        }
        for (int i = 1; i < 257; ++i) ends[0][i] += ends[0][i - 1], ends[1][i] += ends[1][i - 1];
        others_.resize(ranks.size());
        // Each begin moves to its end while those with this byte are put there.
        for (uint64_t rank : ranks) others_[ends[0][number(rank) % 256]++] = rank;
        for (uint64_t rank : others_) ranks[ends[1][number(rank) / 256]++] = rank;
        sort_equal_numbers();
    }

   private:
    static constexpr size_t FEW = 48;  // that are sooner compared than counted
    std::vector<uint64_t> others_;
    uint32_t lowest_;
    uint64_t per_score_;

    uint32_t number(uint64_t rank) const {
        return uint32_t((uint32_t(rank >> 32) - lowest_) * per_score_ >> 32);
    }

    void sort_equal_numbers() {
        auto begin = ranks.begin();
        while (begin != ranks.end()) {
            auto end = begin + 1;
            while (end != ranks.end() && number(*end) == number(*begin)) ++end;
            if (end > begin + 1) std::sort(begin, end);
            begin = end;
        }
    }
};

/// Where neighbours are written down, k of each query, with the values that slots have.
struct Ranked {
    const int64_t* values;
    int64_t k;
    int64_t* slots;
    float* scores;
    int64_t* found_values;
};

/// Ranks the neighbours of one query after another.
class Ranker {
   public:
    Ranker(Rows keys, Ranked ranked) : keys_(keys), to_(ranked), query_(keys.dim) {}

    /// Writes down the first of so many slots, and EMPTY where they are fewer than k. `slot` says
    /// what the i-th of them is; they may lie where the result goes.
    template <class Slot>
    void rank(const float* query, int64_t row, int64_t count, Slot slot) {
        slots_.assign(count + AT_ONCE + AHEAD, EMPTY);
        for (int64_t i = 0; i < count; ++i) slots_[i] = slot(i);
        score(query, count);
        sorter_.sort();
        const uint64_t* const ranks = sorter_.ranks.data();
        const int64_t begin = row * to_.k, found = std::min(count, to_.k);
        int64_t* const slots = to_.slots + begin;
        for (int64_t i = 0; i < found; ++i) slots[i] = slot_of(ranks[i]);
        std::fill(slots + found, slots + to_.k, EMPTY);
        float* const scores = to_.scores + begin;
        for (int64_t i = 0; i < found; ++i) scores[i] = score_of(ranks[i]);
        std::fill(scores + found, scores + to_.k, -INFINITE);
        int64_t* const found_values = to_.found_values + begin;
        for (int64_t i = 0; i < to_.k; ++i)
            found_values[i] = slots[i] == EMPTY ? EMPTY : to_.values[slots[i]];
    }

    int64_t* slots_of(int64_t row) const { return to_.slots + row * to_.k; }

    /// Ranks those that are written down, in place.
    void rank_again(const float* query, int64_t row) {
        const int64_t* mine = slots_of(row);
        rank(query, row, to_.k, [&](int64_t i) { return mine[i]; });
    }

   private:
    static constexpr int64_t AT_ONCE = 4;  // keys, so that one sum need not wait for another
    static constexpr int64_t AHEAD = 8;    // keys to ask for before one is read
    Rows keys_;
    Ranked to_;
    std::vector<double> query_;
    std::vector<int64_t> slots_;
    Sorter sorter_;

    void score(const float* query, int64_t count) {
        sorter_.ranks.resize(count);
        uint64_t* const ranks = sorter_.ranks.data();
        const int64_t* const slots = slots_.data();
        std::copy_n(query, keys_.dim, query_.begin());
        // Of a slot that is none any key does: its score is replaced.
        auto key = [&](int64_t i) { return keys_[std::max<int64_t>(slots[i], 0)]; };
        for (int64_t i = 0; i < count; i += AT_ONCE) {
            const float* some[AT_ONCE];
            float of_some[AT_ONCE];
            for (int64_t j = 0; j < AT_ONCE; ++j) {
                some[j] = key(i + j);
                const float* later = key(i + j + AHEAD);
                for (int64_t d = 0; d < keys_.dim; d += 16) __builtin_prefetch(later + d);
            }
            exact_scores<AT_ONCE>(query_.data(), some, keys_.dim, of_some);
            for (int64_t j = i; j < std::min(i + AT_ONCE, count); ++j)
                ranks[j] = rank_of(slots[j] == EMPTY ? -INFINITE : of_some[j - i], slots[j]);
        }
    }
};

}  // namespace rarememory
