// What memory and host say together of every class: see rarememory/classifier/blend.py.

#include <cmath>

#include "calls.h"
#include "parallel.h"
#include "vectors.h"

using namespace rarememory;

namespace {

struct Blend {
    int64_t classes;
    float nothing;  // the z of a class without evidence
    std::vector<float> highest, sums, host;

    Blend(int64_t classes, float nothing)
        : classes(classes), nothing(nothing), highest(classes), sums(classes), host(classes) {}

    void begin() {
        std::fill(highest.begin(), highest.end(), nothing);
        std::fill(sums.begin(), sums.end(), 0.0f);
        std::fill(host.begin(), host.end(), 0.0f);
    }

    bool is_class(int64_t column) const { return column < classes; }

    // What is not a number stays the highest.
    void meet(int64_t column, float exponent) {
        if (!is_class(column) || highest[column] != highest[column]) return;
        if (!(exponent <= highest[column])) highest[column] = exponent;
    }

    void add(int64_t column, float exponent) {
        if (is_class(column))
            sums[column] += exponent == highest[column] ? 1 : std::exp(exponent - highest[column]);
    }

    /// The likeliest class, of equal ones the first; none where nothing is known, or what is no number.
    int64_t end(float* z) const {
        int64_t best = classes;
        z[classes] = nothing;
        for (int64_t i = 0; i < classes; ++i) {
            const float sum = sums[i] == 1 ? 0 : std::log(sums[i]);
            z[i] = highest[i] > nothing / 2 ? sum + highest[i] + host[i] : nothing;
            if (z[i] > z[best] || z[i] != z[i]) best = i;
        }
        return z[best] > nothing / 2 ? best : classes;
    }
};

float log_sum_exp(const float* numbers, int64_t count) {
    const float highest = *std::max_element(numbers, numbers + count);
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += std::exp(numbers[i] - highest);
    return highest + float(std::log(sum));
}

}  // namespace

/// The z of every class, and of none in the last column, [batch, classes + 1]; and the column of the
/// likeliest class. The columns of the
/// scores are those of one row for all if the stride is 0; a column that is no class has no evidence.
/// A host score that is infinite stands for the one that was found; host terms are one for each row.
extern "C" void rarememory_blend(const float* scores, int64_t batch, int64_t k,
                                 const int64_t* columns, int64_t stride, const float* logits,
                                 int64_t n_host, const int64_t* host_columns,
                                 const float* temperature, const float* host_score, float found,
                                 const float* host_weight, const float* host_bias,
                                 const float* host_terms, int64_t classes,
                                 float nothing, int threads, float* z, int64_t* likeliest) {
    threads = worth(threads, batch, k + n_host, 64);
    const float prior = (*host_score == INFINITE ? found : *host_score) / *temperature;
    in_parts(batch, threads, [&](int64_t begin, int64_t end) {
        Blend blend(classes, nothing);
        for (int64_t row = begin; row < end; ++row) {
            const float *own = scores + row * k, *answers = logits + row * n_host;
            const int64_t* places = columns + row * stride;
            const bool has_host = n_host > 0;
            const float sum = has_host ? log_sum_exp(answers, n_host) : 0;
            const float bias = *host_bias + (host_terms ? host_terms[row] : 0);
            auto allowed = [&](int64_t i) { return answers[i] > nothing / 2; };
            blend.begin();
            for (int64_t i = 0; i < k; ++i) blend.meet(places[i], own[i] / *temperature);
            for (int64_t i = 0; i < n_host; ++i)
                if (allowed(i)) blend.meet(host_columns[i], prior);
            for (int64_t i = 0; i < k; ++i) blend.add(places[i], own[i] / *temperature);
            for (int64_t i = 0; i < n_host; ++i)
                if (allowed(i) && blend.is_class(host_columns[i])) {
                    blend.add(host_columns[i], prior);
                    blend.host[host_columns[i]] = *host_weight * (answers[i] - sum) + bias;
                }
            likeliest[row] = blend.end(z + row * (classes + 1));
        }
    });
}
