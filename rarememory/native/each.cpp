// Reads and writes of several memories of one size, one after the other in their tensors: each row
// of a batch has its own. Threads share the memories.

#include <algorithm>
#include <vector>

#include "calls.h"
#include "parallel.h"
#include "vectors.h"

using namespace rarememory;

namespace {

/// The least of what the work on each memory returns.
template <class Work>
int64_t least(int64_t memories, int threads, Work work) {
    std::vector<int64_t> results(memories);
    for_each(memories, threads, [&](int64_t n) { results[n] = work(n); });
    return *std::min_element(results.begin(), results.end());
}

}  // namespace

/// As rarememory_read without codes, of `memories`, with `batch` queries of each.
extern "C" int64_t rarememory_read_each(int64_t memories, const float* queries, int64_t batch,
                                        const float* keys, int64_t slots, int64_t dim,
                                        const int64_t* values, int64_t k, float tolerance,
                                        int threads, float* units, int64_t* found, float* scores,
                                        int64_t* found_values) {
    threads = worth(threads, memories * batch, slots, dim);
    return least(memories, threads, [&](int64_t n) {
        const int64_t row = n * batch;
        return rarememory_read(queries + row * dim, batch, keys + n * slots * dim, slots, dim,
                               nullptr, nullptr, nullptr, nullptr, values + n * slots, nullptr, -1,
                               nullptr, k, tolerance, 1, nullptr, 0, units + row * dim,
                               found + row * k, scores + row * k, found_values + row * k);
    });
}

/// As rarememory_read_pair without codes, with a loss of each memory.
extern "C" int64_t rarememory_read_pair_each(int64_t memories, const float* queries,
                                             int64_t batch, const float* keys, int64_t slots,
                                             int64_t dim, const int64_t* values,
                                             const int64_t* labels, float margin, float tolerance,
                                             int threads, float* units, int64_t* found,
                                             float* scores, int64_t* found_values,
                                             float* found_keys, float* slopes, float* gradient,
                                             float* loss) {
    threads = worth(threads, memories * batch, slots, dim);
    return least(memories, threads, [&](int64_t n) {
        const int64_t row = n * batch;
        return rarememory_read_pair(queries + row * dim, batch, keys + n * slots * dim, slots, dim,
                                    nullptr, nullptr, nullptr, values + n * slots, labels + row,
                                    margin, tolerance, 1, nullptr, 0, units + row * dim,
                                    found + 2 * row, scores + 2 * row, found_values + 2 * row,
                                    found_keys + 2 * row * dim, slopes + 2 * row,
                                    gradient + row * dim, loss + n);
    });
}

/// As rarememory_write_at_once; where a row of any memory is UNSAFE, none is written.
extern "C" int64_t rarememory_write_each(int64_t memories, float* keys, int64_t size, int64_t dim,
                                         int64_t* values, int64_t* written, int64_t* clock,
                                         const int64_t* seed, const float* queries,
                                         const int64_t* labels, int64_t batch,
                                         const int64_t* nearest, int64_t step, int averages,
                                         double age_weight, double noise_weight, double shortest,
                                         int threads, int64_t* slots, bool* hits,
                                         int64_t* overwritten) {
    for (int64_t row = 0; row < memories * batch; ++row)
        if (!is_writable(queries + row * dim, dim, labels[row], nearest[row * step], size))
            return UNSAFE;
    threads = worth(threads, memories * batch, size, dim);
    return least(memories, threads, [&](int64_t n) {
        const int64_t row = n * batch;
        return rarememory_write_at_once(keys + n * size * dim, size, dim, values + n * size,
                                        written + n * size, clock + n, seed + n,
                                        queries + row * dim, labels + row, batch,
                                        nearest + row * step, step, averages, age_weight,
                                        noise_weight, shortest, slots + row, hits + row,
                                        overwritten + row);
    });
}
