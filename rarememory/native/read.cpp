// A read in one call: the k nearest slots of each query, or with labels its nearest pair and the
// memory loss; in the one order, with scores and values.

#include <cmath>
#include <memory>

#include "calls.h"
#include "vectors.h"

using namespace rarememory;

namespace {

/// q / |q|, with a length that is summed in doubles and rounded once; whether all have a safe one.
bool normalize(Rows queries, float* units, float* lengths = nullptr) {
    for (int64_t row = 0; row < queries.count; ++row, units += queries.dim) {
        const float length = float(std::sqrt(sum_of_squares(queries[row], queries.dim)));
        if (!is_safe(length)) return false;
        for (int64_t d = 0; d < queries.dim; ++d) units[d] = queries[row][d] / length;
        if (lengths) lengths[row] = length;
    }
    return true;
}

/// dq = (g - u (u . g)) / |q| of a row, with g = sum_i slopes[i] keys[i] over the pair, times a scale.
void descend(const float* unit, float length, const float* slopes, const float* keys, int64_t dim,
             float scale, float* gradient) {
    double along = 0;
    for (int64_t d = 0; d < dim; ++d) {
        gradient[d] = slopes[0] * keys[d] + slopes[1] * keys[dim + d];
        along += double(unit[d]) * gradient[d];
    }
    for (int64_t d = 0; d < dim; ++d)
        gradient[d] = (gradient[d] - unit[d] * float(along)) * (scale / length);
}

}  // namespace

/// 0, or UNSAFE where a query has no length that this can divide by.
extern "C" int64_t rarememory_normalize(const float* queries, int64_t batch, int64_t dim,
                                        float* units) {
    return normalize({queries, batch, dim}, units) ? 0 : UNSAFE;
}

/// The nearest of the slots that the labels or the mask leave, if there are such. By codes where
/// there are bytes; returns what the search by codes does, and else 0. It returns UNSAFE, and does
/// nothing, where a query has no length that this can divide by.
extern "C" int64_t rarememory_read(const float* queries, int64_t batch, const float* keys,
                                   int64_t slots, int64_t dim, const uint8_t* bytes,
                                   const float* steps, const float* off, const uint8_t* rows,
                                   const int64_t* values, const int64_t* labels, int64_t count,
                                   const bool* mask, int64_t k, float tolerance, int threads,
                                   const int64_t* sampled, int64_t samples, float* units,
                                   int64_t* found, float* scores, int64_t* found_values) {
    if (!normalize({queries, batch, dim}, units)) return UNSAFE;
    const std::unique_ptr<bool[]> marks(new bool[slots]);
    rarememory_mark(values, slots, labels, count, mask, threads, marks.get());
    if (bytes)
        return rarememory_ranked_coded(units, batch, keys, slots, dim, bytes, steps, off, rows,
                                       marks.get(), values, k, tolerance, threads, sampled,
                                       samples, found, scores, found_values);
    rarememory_nearest(units, batch, keys, slots, dim, marks.get(), 0, k, tolerance, threads,
                       found);
    rarememory_rank(units, batch, keys, dim, values, found, k, threads, scores, found_values);
    return 0;
}

/// The pair of each query, its keys (zero for EMPTY), the memory loss, what a row's part of it gains
/// with each of the two scores, and its gradient. By codes where there are bytes; returns what the
/// search by codes does, and else 0; or UNSAFE, also where a label is none.
extern "C" int64_t rarememory_read_pair(const float* queries, int64_t batch, const float* keys,
                                        int64_t slots, int64_t dim, const uint8_t* bytes,
                                        const float* steps, const float* off, const int64_t* values,
                                        const int64_t* labels, float margin, float tolerance,
                                        int threads, const int64_t* sampled, int64_t samples,
                                        float* units, int64_t* found, float* scores,
                                        int64_t* found_values, float* found_keys, float* slopes,
                                        float* gradient, float* loss) {
    for (int64_t row = 0; row < batch; ++row)
        if (labels[row] < 0) return UNSAFE;
    std::vector<float> lengths(batch);
    if (!normalize({queries, batch, dim}, units, lengths.data())) return UNSAFE;
    std::vector<int64_t> positive(batch), negative(batch);
    int64_t missed = 0;
    if (bytes)
        missed = rarememory_nearest_pair_coded(
            units, batch, keys, slots, dim, bytes, steps, off, values, labels, tolerance, threads,
            sampled, samples, positive.data(), negative.data());
    else
        rarememory_nearest_pair(units, batch, keys, slots, dim, values, labels, tolerance, threads,
                                positive.data(), negative.data());
    if (missed < 0) return missed;
    for (int64_t row = 0; row < batch; ++row)
        found[2 * row] = positive[row], found[2 * row + 1] = negative[row];
    rarememory_rank(units, batch, keys, dim, values, found, 2, threads, scores, found_values);
    double sum = 0;
    for (int64_t row = 0; row < batch; ++row) {
        const int64_t right = 2 * row + (found[2 * row] != positive[row]), wrong = right ^ 1;
        const bool known = found[right] != EMPTY;
        const float lost = scores[wrong] - (known ? scores[right] : 0) + margin;
        sum += lost <= 0 ? 0 : lost;
        slopes[wrong] = lost > 0;
        slopes[right] = -float(lost > 0 && known);
        for (int64_t i = 2 * row; i < 2 * row + 2; ++i)
            if (found[i] == EMPTY) std::fill_n(found_keys + i * dim, dim, 0.0f);
            else std::copy_n(keys + found[i] * dim, dim, found_keys + i * dim);
        descend(units + row * dim, lengths[row], slopes + 2 * row, found_keys + 2 * row * dim, dim,
                1 / float(batch), gradient + row * dim);
    }
    *loss = float(sum / double(batch));
    return missed;
}
