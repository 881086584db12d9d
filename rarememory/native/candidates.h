// Choosing: a number that k of many reach, and the slots that may be among the k nearest to a query.

#pragma once

#include <cstring>

#include "vectors.h"

namespace rarememory {

constexpr int64_t FEWEST = 64;  // numbers among which a k-th highest is worth finding

/// How many slots are marked.
inline int64_t count_marks(const bool* marks, int64_t count) {
    int64_t sum = 0, i = 0;
    // Sums in bytes, for as long as a byte holds them, become vectors.
    for (; i + 64 <= count; i += 64) {
        uint8_t some = 0;
        for (int64_t j = i; j < i + 64; ++j) some = uint8_t(some + marks[j]);
        sum += some;
    }
    for (; i < count; ++i) sum += marks[i];
    return sum;
}

/// A bit for each of up to 64 marks.
inline uint64_t bits_of(const bool* marks, int64_t count) {
    uint64_t found = 0;
    int64_t i = 0;
    // A product brings the lowest bits of eight bytes together.
    for (; i + 8 <= count; i += 8) {
        uint64_t eight;
        std::memcpy(&eight, marks + i, 8);
        found |= (eight * 0x0102040810204080u >> 56) << i;
    }
    for (; i < count; ++i) found |= uint64_t(marks[i]) << i;
    return found;
}

/// The places of so many marks.
inline std::vector<int32_t> places_of(const bool* marks, int64_t count, int64_t marked) {
    constexpr uint64_t LAST = uint64_t(1) << 63;
    std::vector<int32_t> places(marked + 64);
    int32_t* next = places.data();
    for (int64_t slot = 0; slot < count; slot += 64) {
        uint64_t left = bits_of(marks + slot, std::min<int64_t>(64, count - slot));
        const int found = __builtin_popcountll(left);
        // Eight at a time, so that there are few branches; what is too much is overwritten.
        for (int32_t* some = next; some < next + found; some += 8)
            for (int i = 0; i < 8; ++i, left &= left - 1)
                some[i] = int32_t(slot) + __builtin_ctzll(left | LAST);
        next += found;
    }
    return places;
}

/// How many of the numbers are at least so high. They come in whole vectors, the last one padded.
inline int64_t count_from(const float* numbers, int64_t count, float least) {
    Ints found = {};
    for (int64_t i = 0; i < count; i += LANES) found -= load(numbers + i) >= least;
    int64_t sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += found[lane];
    return sum;
}

inline float highest_of(const float* numbers, int64_t count) {
    Floats highest = all(LOWEST);
    for (int64_t i = 0; i < count; i += LANES) highest = greater(load(numbers + i), highest);
    float of_all = LOWEST;
    for (int lane = 0; lane < LANES; ++lane) of_all = std::max(of_all, highest[lane]);
    return of_all;
}

inline float lowest_from(const float* numbers, int64_t count, float least) {
    Floats lowest = all(INFINITE);
    for (int64_t i = 0; i < count; i += LANES) {
        Floats some = load(numbers + i);
        lowest = lesser(some >= least ? some : all(INFINITE), lowest);
    }
    float of_all = INFINITE;
    for (int lane = 0; lane < LANES; ++lane) of_all = std::min(of_all, lowest[lane]);
    return of_all;
}

/// A number that k of the numbers reach, or few more: by bisection, since counting vectorises and
/// sorting does not. After enough rounds it parts the k highest from the rest as well as ties allow.
/// -2 if fewer than k are above that.
inline float reached_by(const float* numbers, int64_t count, int64_t k, int rounds) {
    float low = LOWEST, high = highest_of(numbers, count);
    if (count_from(numbers, count, low) < k) return LOWEST;
    if (count_from(numbers, count, high) >= k) return high;
    // k are in [low, ...] and fewer in [high, ...]. The first steps are small, as k often is.
    for (float step = (high - low) / 64; high - step > low; step *= 2) {
        if (count_from(numbers, count, high - step) >= k) {
            low = high - step;
            break;
        }
        high -= step;
    }
    for (int round = 0; round < rounds; ++round) {
        float middle = low + (high - low) / 2;
        if (middle <= low || middle >= high) break;
        int64_t found = count_from(numbers, count, middle);
        (found >= k ? low : high) = middle;
        if (found == k) break;
    }
    return low;
}

/// A lower bound of the k-th highest of the block: that of the maxima of its halves, quarters...
inline float threshold(const float* block, int64_t size, int64_t k) {
    static thread_local std::vector<float> maxima;
    maxima.assign(block, block + (size + LANES - 1) / LANES * LANES);
    while (size % (2 * LANES) == 0 && size / 2 >= std::max(2 * k, FEWEST)) {
        size /= 2;
        for (int64_t i = 0; i < size; i += LANES)
            store(&maxima[i], greater(load(&maxima[i]), load(&maxima[size + i])));
    }
    return reached_by(maxima.data(), size, k, 8);
}

/// Slots that may be among the k nearest to one query, in ascending order.
class Candidates {
   public:
    int64_t count = 0;
    std::vector<float> scores;    // padded with what reaches nothing
    std::vector<int32_t> slots;

    float least() const { return least_; }

    /// From now on only this much is enough.
    void demand(float least) { least_ = std::max(LOWEST, least); }

    /// Takes what reaches the threshold out of a block; the first one sets it.
    void offer(const float* block, int64_t size, int32_t first, int64_t k, float tolerance) {
        if (least_ == LOWEST) demand(threshold(block, size, k) - tolerance);
        take(block, size, first);
    }

    void take(const float* block, int64_t size, int32_t first) {
        static thread_local std::vector<float> taken_scores;
        static thread_local std::vector<int32_t> taken_slots;
        taken_scores.resize(std::max<size_t>(taken_scores.size(), size + LANES));
        taken_slots.resize(taken_scores.size());
        int64_t taken = 0;
        for (int64_t i = 0; i < size; i += LANES) {
            const Floats some = load(block + i);
            const Ints wanted = some >= least_;
            if (bits(wanted)) taken += pack(some, wanted, first + int32_t(i), &taken_scores[taken],
                          &taken_slots[taken]);
        }
        add(taken_scores.data(), taken_slots.data(), taken);
    }

    /// Adds those of later slots.
    void join(const Candidates& later) { add(later.scores.data(), later.slots.data(), later.count); }

    /// Drops what cannot be among the k best any more, once there is enough of it.
    void shrink(Rows keys, const float* query, int64_t k, float tolerance) {
        if (count <= 2 * k + FEWEST) return;
        demand(lowest_of_best(k) - tolerance);
        keep_from(least_);
        if (count > 2 * k + FEWEST) settle(keys, query, k, tolerance);
    }

    /// Keeps the k best; where rounding could decide, exact scores do, and then the lower slot.
    void settle(Rows keys, const float* query, int64_t k, float tolerance) {
        if (count <= k) return;
        const float edge = lowest_of_best(k);
        keep_from(edge - tolerance);
        if (count == k) return;
        std::vector<std::pair<float, int32_t>> doubtful;
        auto doubt = [&](float most) {
            doubtful.clear();
            for (int64_t i = 0; i < count; ++i)
                if (scores[i] <= most)
                    doubtful.emplace_back(-exact_score(query, keys[slots[i]], keys.dim), int32_t(i));
        };
        doubt(edge + tolerance);
        // Among numbers far beyond any cosine the edge may not have been found.
        if (int64_t(doubtful.size()) < count - k) doubt(INFINITE);
        std::sort(doubtful.begin(), doubtful.end());
        for (auto out = doubtful.end() - (count - k); out != doubtful.end(); ++out)
            scores[out->second] = -INFINITE;
        keep_from(LOWEST);
    }

    void add(const float* more_scores, const int32_t* more_slots, int64_t more) {
        if (more == 0) return;
        scores.resize((count + more + LANES - 1) / LANES * LANES);
        slots.resize(scores.size());
        std::copy_n(more_scores, more, &scores[count]);
        std::copy_n(more_slots, more, &slots[count]);
        count += more;
        std::fill(scores.begin() + count, scores.end(), -INFINITE);
    }

    void keep_from(float least) {
        int64_t kept = 0;
        for (int64_t i = 0; i < count; i += LANES) {
            Floats some = load(&scores[i]);
            Ints places;
            std::copy_n(&slots[i], LANES, (int32_t*)&places);
            kept += pack(some, some >= least, places, &scores[kept], &slots[kept]);
        }
        count = kept;
        scores.resize((count + LANES - 1) / LANES * LANES);
        std::fill(scores.begin() + count, scores.end(), -INFINITE);
    }

   private:
    float least_ = LOWEST;

    float lowest_of_best(int64_t k) const {
        return lowest_from(scores.data(), count, reached_by(scores.data(), count, k, 64));
    }
};

}  // namespace rarememory
