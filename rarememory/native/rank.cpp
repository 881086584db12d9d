// Ranks the neighbours that any search has found.

#include "calls.h"
#include "parallel.h"
#include "rank.h"

using namespace rarememory;

/// Sorts the slots of each query, in place.
extern "C" void rarememory_rank(const float* queries, int64_t batch, const float* keys, int64_t dim,
                                const int64_t* values, int64_t* slots, int64_t k, int threads,
                                float* scores, int64_t* found_values) {
    if (k == 0) return;
    threads = worth(threads, batch, k, 8 * dim);
    in_parts(batch, threads, [&](int64_t begin, int64_t end) {
        Ranker ranker({keys, 0, dim}, {values, k, slots, scores, found_values});
        for (int64_t row = begin; row < end; ++row) ranker.rank_again(queries + row * dim, row);
    });
}
