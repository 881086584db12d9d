// A read in one call: the k nearest slots of each query in the one order, with scores and values.

#include <cmath>
#include <memory>

#include "vectors.h"

using namespace rarememory;

extern "C" void rarememory_nearest(const float* queries, int64_t batch, const float* keys,
                                   int64_t slots, int64_t dim, const bool* marks, int64_t stride,
                                   int64_t k, float tolerance, int threads, int64_t* found);
extern "C" int64_t rarememory_nearest_coded(const float* queries, int64_t batch, const float* keys,
                                            int64_t slots, int64_t dim, const uint8_t* bytes,
                                            const float* steps, const float* off,
                                            const bool* occupied, int64_t k, float tolerance,
                                            int threads, const int64_t* sampled, int64_t samples,
                                            int64_t* found);
extern "C" void rarememory_rank(const float* queries, int64_t batch, const float* keys, int64_t dim,
                                const int64_t* values, int64_t* slots, int64_t k, int threads,
                                float* scores, int64_t* found_values);

namespace {

constexpr int64_t UNSAFE = -2;
// Between these a squared length neither overflows nor loses digits in float32.
constexpr float SHORTEST = 1e-15f, LONGEST = 1e15f;

/// q / |q|, with a length that is summed in doubles and rounded once; whether all have a safe one.
bool normalize(Rows queries, float* units) {
    for (int64_t row = 0; row < queries.count; ++row, units += queries.dim) {
        double sums[8] = {}, sum = 0;
        for (int64_t d = 0; d < queries.dim; ++d)
            sums[d % 8] += double(queries[row][d]) * queries[row][d];
        for (double part : sums) sum += part;
        const float length = float(std::sqrt(sum));
        if (!(length > SHORTEST && length < LONGEST)) return false;
        for (int64_t d = 0; d < queries.dim; ++d) units[d] = queries[row][d] / length;
    }
    return true;
}

}  // namespace

/// By codes where there are bytes; returns what the search by codes does, and else 0; or UNSAFE,
/// and nothing else, where a query has no length that this can divide by.
extern "C" int64_t rarememory_read(const float* queries, int64_t batch, const float* keys,
                                   int64_t slots, int64_t dim, const uint8_t* bytes,
                                   const float* steps, const float* off, const int64_t* values,
                                   int64_t k, float tolerance, int threads, const int64_t* sampled,
                                   int64_t samples, float* units, int64_t* found, float* scores,
                                   int64_t* found_values) {
    if (!normalize({queries, batch, dim}, units)) return UNSAFE;
    const std::unique_ptr<bool[]> occupied(new bool[slots]);
    const int marking = worth(threads, 1, slots, 1);
#pragma omp parallel for num_threads(marking) if (marking > 1) schedule(static)
    for (int64_t slot = 0; slot < slots; ++slot) occupied[slot] = values[slot] != EMPTY;
    int64_t missed = 0;
    if (bytes)
        missed = rarememory_nearest_coded(units, batch, keys, slots, dim, bytes, steps, off,
                                          occupied.get(), k, tolerance, threads, sampled, samples,
                                          found);
    else
        rarememory_nearest(units, batch, keys, slots, dim, occupied.get(), 0, k, tolerance,
                           threads, found);
    if (missed >= 0)
        rarememory_rank(units, batch, keys, dim, values, found, k, threads, scores, found_values);
    return missed;
}
