// The logits of every class for queries that are few, by a fitted discriminant: torch takes longer to
// begin its operators than this takes.

#include <cmath>

#include "calls.h"
#include "parallel.h"
#include "vectors.h"

using namespace rarememory;

namespace {

constexpr double SHORTEST = 1e-12;  // a shorter vector is not lengthened, as in torch
constexpr float SMALLEST = 1e-8f;   // a number of a unit vector that is nearer to 0 is taken for it

/// x / length - origin.
void divide(const float* x, double length, const float* origin, int64_t dim, float* to) {
    const float divisor = float(length);
    for (int64_t d = 0; d < dim; ++d) to[d] = x[d] / divisor - origin[d];
}

/// Square roots of the sizes of x / length, with the signs of the numbers; 0 stays 0.
void take_roots(const float* x, double length, int64_t dim, float* to) {
    const float divisor = float(length);
    for (int64_t d = 0; d < dim; ++d) {
        const float root = std::sqrt(std::max(std::fabs(x[d] / divisor), SMALLEST));
        to[d] = x[d] == 0 ? 0 : std::copysign(root, x[d]);
    }
}

/// Adds x @ matrix, where the matrix is [rows, columns].
void add_product(const float* x, const float* matrix, int64_t rows, int64_t columns, float* sums) {
    for (int64_t row = 0; row < rows; ++row, matrix += columns)
        for (int64_t i = 0; i < columns; ++i) sums[i] += x[row] * matrix[i];
}

}  // namespace

/// Features are compared as they are, or by their square roots. Without `precision` the axes cover
/// every direction, and without `change` nothing was refined; the offsets of the classes are added
/// last, where there are any. 0, or UNSAFE where features have no length that this can divide by.
extern "C" int64_t rarememory_discriminate(const float* features, int64_t batch, int64_t dim,
                                           bool by_roots, const float* mean, const float* center,
                                           const float* metric, int64_t axes,
                                           const float* precision, float outside,
                                           const float* weights, const float* bias,
                                           const float* change, const float* more,
                                           const float* offsets, int64_t classes, int threads,
                                           float* logits) {
    std::vector<double> lengths(batch);
    for (int64_t row = 0; row < batch; ++row) {
        lengths[row] = std::sqrt(sum_of_squares(features + row * dim, dim));
        if (!is_safe(lengths[row])) return UNSAFE;
    }
    threads = worth(threads, batch, dim, axes);
    for_each(batch, threads, [&](int64_t number) {
        std::vector<float> x(dim), row(axes), refined;
        const float* given = features + number * dim;
        double length = lengths[number];
        if (by_roots) {
            take_roots(given, length, dim, x.data());
            given = x.data();
            length = std::sqrt(sum_of_squares(given, dim));
        }
        divide(given, length, mean, dim, x.data());
        const double centred = std::max(std::sqrt(sum_of_squares(x.data(), dim)), SHORTEST);
        divide(x.data(), centred, center, dim, x.data());
        add_product(x.data(), metric, dim, axes, row.data());
        length = sum_of_squares(row.data(), axes);
        if (precision) {
            const double along =
                sum_of_squares(row.data(), axes, [&](int64_t i) { return 1.0 / precision[i]; });
            length += outside * std::max(sum_of_squares(x.data(), dim) - along, 0.0);
        }
        const float scale = float(1 / std::sqrt(std::max(length, SHORTEST)));
        for (float& number : row) number *= scale;
        float* base = logits + number * classes;
        std::copy_n(bias, classes, base);
        add_product(row.data(), weights, axes, classes, base);
        if (change) {
            refined.assign(base, base + classes);
            for (int64_t i = 0; i < classes; ++i) refined[i] += more[i];
            add_product(row.data(), change, axes, classes, refined.data());
            // The greatest stays as great as it was.
            const float level = *std::max_element(base, base + classes) -
                                *std::max_element(refined.begin(), refined.end());
            for (int64_t i = 0; i < classes; ++i) base[i] = refined[i] + level;
        }
        if (offsets)
            for (int64_t i = 0; i < classes; ++i) base[i] += offsets[i];
    });
    return 0;
}
