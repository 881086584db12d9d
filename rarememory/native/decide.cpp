// The likeliest class of queries that are few: rarememory_discriminate and rarememory_blend in one call.

#include <algorithm>
#include <cmath>
#include <vector>

#include "calls.h"
#include "vectors.h"

using namespace rarememory;

/// The highest logit of a host less the mean of its logits.
static float above_mean(const float* logits, int64_t n_host) {
    double below = 0;
    const float highest = *std::max_element(logits, logits + n_host);
    for (int64_t i = 0; i < n_host; ++i) below += double(highest) - logits[i];
    return float(below / n_host);
}

/// The column of the likeliest class of each row. The arguments are those of the two, where
/// `blend_weights` are the four side by side, and `columns` are of the k classes of the discriminant.
/// The terms of the host are those of rarememory/classifier/max_logit.py, if they have a weight.
/// 0, or UNSAFE where features have no length that this can divide by.
extern "C" int64_t rarememory_decide(const float* features, int64_t batch, int64_t dim,
                                     const float* logits, const float* blend_weights, bool by_roots,
                                     const float* mean, const float* center, const float* metric,
                                     int64_t axes, const float* precision, float outside,
                                     const float* weights, const float* bias, const float* change,
                                     const float* more, const float* offsets, int64_t k,
                                     const int64_t* columns, int64_t n_host,
                                     const int64_t* host_columns, float found,
                                     float max_logit_weight, float max_logit_mean, int64_t classes,
                                     float nothing, int threads, int64_t* likeliest) {
    std::vector<float> scores(batch * k), z(batch * (classes + 1));
    if (rarememory_discriminate(features, batch, dim, by_roots, mean, center, metric, axes,
                                precision, outside, weights, bias, change, more, offsets, k,
                                threads, scores.data()) == UNSAFE)
        return UNSAFE;
    std::vector<float> terms(batch);
    for (int64_t row = 0; row < batch && max_logit_weight != 0 && n_host > 0; ++row) {
        const float length = float(std::sqrt(sum_of_squares(features + row * dim, dim)));
        const float max_logit = above_mean(logits + row * n_host, n_host) / length;
        terms[row] = max_logit_weight * (max_logit - max_logit_mean);
    }
    rarememory_blend(scores.data(), batch, k, columns, 0, logits, n_host, host_columns,
                     blend_weights, blend_weights + 1, found, blend_weights + 2, blend_weights + 3,
                     max_logit_weight == 0 ? nullptr : terms.data(), classes, nothing, threads,
                     z.data(), likeliest);
    return 0;
}
