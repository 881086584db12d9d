// Neighbours in the one order (higher score first, then lower slot), with their scores and values.

#include <cstring>

#include "calls.h"
#include "parallel.h"
#include "vectors.h"

using namespace rarememory;

namespace {

constexpr int64_t AT_ONCE = 4;  // keys, so that one sum need not wait for another
constexpr int64_t AHEAD = 8;    // keys to ask for before one is read

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

/// Sorts the neighbours of a query: into buckets by score first, which lie near to each other.
class Sorter {
   public:
    explicit Sorter(int64_t k) : ranks(k), sorted_(k), ends_(k + 1) {}

    std::vector<uint64_t> ranks;

    const std::vector<uint64_t>& sorted() {
        const auto [first, last] = std::minmax_element(ranks.begin(), ranks.end());
        const uint64_t lowest = *first, width = (*last - lowest) / ranks.size() + 1;
        std::fill(ends_.begin(), ends_.end(), 0);
        // The buckets are as many as the neighbours: to divide is dear, and to multiply is not.
        const double per_width = 1.0 / double(width);
        auto bucket = [&](uint64_t rank) {
            return std::min(size_t(double(rank - lowest) * per_width), ranks.size() - 1);
        };
        for (uint64_t rank : ranks) ++ends_[bucket(rank) + 1];
        for (size_t i = 1; i < ends_.size(); ++i) ends_[i] += ends_[i - 1];
        // Each begin moves to its end while its bucket is filled.
        for (uint64_t rank : ranks) sorted_[ends_[bucket(rank)]++] = rank;
        for (size_t i = 0, begin = 0; i < ranks.size(); begin = ends_[i++])
            if (ends_[i] > begin + 1) std::sort(&sorted_[begin], &sorted_[0] + ends_[i]);
        return sorted_;
    }

   private:
    std::vector<uint64_t> sorted_;
    std::vector<uint32_t> ends_;
};

}  // namespace

/// Sorts the slots of each query, in place.
extern "C" void rarememory_rank(const float* queries, int64_t batch, const float* keys, int64_t dim,
                                const int64_t* values, int64_t* slots, int64_t k, int threads,
                                float* scores, int64_t* found_values) {
    if (k == 0) return;
    threads = worth(threads, batch, k, 8 * dim);
    in_parts(batch, threads, [&](int64_t begin, int64_t end) {
        Sorter sorter(k);
        std::vector<double> query(dim);
        for (int64_t row = begin; row < end; ++row) {
            int64_t* mine = slots + row * k;
            std::copy_n(queries + row * dim, dim, query.begin());
            for (int64_t i = 0; i < k; i += AT_ONCE) {
                const float* some[AT_ONCE];
                float of_some[AT_ONCE];
                for (int64_t j = 0; j < AT_ONCE; ++j) {
                    // Of a slot that is none any key does: its score is replaced.
                    some[j] = keys + std::max<int64_t>(mine[std::min(i + j, k - 1)], 0) * dim;
                    const int64_t later = std::max<int64_t>(mine[std::min(i + j + AHEAD, k - 1)], 0);
                    for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(keys + later * dim + d);
                }
                exact_scores<AT_ONCE>(query.data(), some, dim, of_some);
                for (int64_t j = 0; j < std::min(AT_ONCE, k - i); ++j)
                    sorter.ranks[i + j] =
                        rank_of(mine[i + j] == EMPTY ? -INFINITE : of_some[j], mine[i + j]);
            }
            const std::vector<uint64_t>& ranks = sorter.sorted();
            for (int64_t i = 0; i < k; ++i) {
                mine[i] = slot_of(ranks[i]);
                scores[row * k + i] = score_of(ranks[i]);
                found_values[row * k + i] = mine[i] == EMPTY ? EMPTY : values[mine[i]];
            }
        }
    });
}
