// What is remembered beside keys: see rarememory/classifier/beside_keys.py.

#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "parallel.h"
#include "vectors.h"

using namespace rarememory;

/// The length of each row, between the shortest and the longest; NaN of one that has no length.
extern "C" void rarememory_norms(const float* features, int64_t batch, int64_t dim, float shortest,
                                 float longest, int threads, float* norms) {
    for_each(batch, worth(threads, batch, 1, dim), [&](int64_t row) {
        const float norm = float(std::sqrt(sum_of_squares(features + row * dim, dim)));
        norms[row] = std::clamp(norm, shortest, longest);
    });
}

/// Below 1, which stands for what is not known.
constexpr float SUREST = 1 - 0x1p-24f;

/// The highest softmax of each row of logits, those of forgotten classes left out, at most SUREST,
/// and the highest of these logits less their mean, side by side; 1 and -1 where one is no number.
extern "C" void rarememory_certainty(const float* logits, int64_t batch, int64_t n_host,
                                     const int64_t* host_ids, int threads, float* certainty) {
    for_each(batch, worth(threads, batch, n_host, 64), [&](int64_t row) {
        const float* own = logits + row * n_host;
        float highest = -INFINITE;
        for (int64_t i = 0; i < n_host; ++i)
            if (host_ids[i] != EMPTY) highest = std::max(highest, own[i]);
        double sum = 0, below = 0;
        int64_t count = 0;
        for (int64_t i = 0; i < n_host; ++i)
            if (host_ids[i] != EMPTY) {
                sum += std::exp(own[i] - highest);
                below += double(highest) - own[i];
                ++count;
            }
        const bool known = sum >= 1 && std::isfinite(float(below / count));
        certainty[2 * row] = known ? std::min(float(1 / sum), SUREST) : 1;
        certainty[2 * row + 1] = known ? float(below / count) : -1;
    });
}
