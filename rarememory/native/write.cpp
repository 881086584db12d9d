// Writing: the slots to give up first, and the rows of a batch put into their slots.

#include <cmath>
#include <memory>
#include <numeric>

#include "calls.h"
#include "vectors.h"

using namespace rarememory;

namespace {

constexpr int64_t AGES = 64;  // slots whose ages are looked at together

constexpr uint64_t GAMMA = 0x9E3779B97F4A7C15u;

/// A slot and how gladly it is given up: the gladder goes first, then the lower slot.
struct Candidate {
    double priority;
    int64_t slot;

    bool operator<(const Candidate& other) const {
        return priority != other.priority ? priority > other.priority : slot < other.slot;
    }
};

/// The slots to give up first, best first; never one that is barred.
class EvictionList {
   public:
    EvictionList(const int64_t* keep, int64_t kept, int64_t count)
        : barred_(keep, keep + kept), count_(count) {
        std::sort(barred_.begin(), barred_.end());
    }

    /// Below this, or at it and later, a slot comes too late.
    double least() const { return full() ? best_.back().priority : -INFINITE; }

    /// Whether no later slot is one of them: as many empty ones are found as are asked for.
    bool done() const { return count_ == 0 || least() == INFINITE; }

    /// Slots come in ascending order.
    void offer(double priority, int64_t slot) {
        const Candidate one{priority, slot};
        if (full() && !(one < best_.back())) return;
        if (std::binary_search(barred_.begin(), barred_.end(), slot)) return;
        if (full()) best_.pop_back();
        best_.insert(std::upper_bound(best_.begin(), best_.end(), one), one);
    }

    void begin_with(const double* priorities, const int64_t* slots) {
        for (int64_t i = 0; i < count_ && slots[i] != EMPTY; ++i)
            best_.push_back({priorities[i], slots[i]});
    }

    void end_with(double* priorities, int64_t* slots) const {
        for (size_t i = 0; i < best_.size(); ++i) {
            if (priorities) priorities[i] = best_[i].priority;
            slots[i] = best_[i].slot;
        }
    }

   private:
    std::vector<Candidate> best_;
    std::vector<int64_t> barred_;
    int64_t count_;

    bool full() const { return int64_t(best_.size()) == count_; }
};

/// Number `place` of the SplitMix64 sequence (noise.py) from a state on, as a double in [-1, 1).
double noise(uint64_t state, int64_t place) {
    uint64_t z = state + uint64_t(place) * GAMMA;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return double(int64_t((z ^ (z >> 31)) >> 11)) * 0x1p-52 - 1.0;
}

/// A product of its own: torch rounds it before it adds, and so has this to.
double product(double a, double b) {
    volatile double rounded = a * b;
    return rounded;
}

/// Rows of a batch in an order that depends on what they are, not on where they stand.
std::vector<int64_t> own_order(Rows queries, const int64_t* labels) {
    std::vector<int64_t> rows(queries.count);
    std::iota(rows.begin(), rows.end(), 0);
    std::stable_sort(rows.begin(), rows.end(),
                     [&](int64_t a, int64_t b) { return labels[a] < labels[b]; });
    auto same = [&](int64_t a, int64_t b) { return labels[a] == labels[b]; };
    if (std::adjacent_find(rows.begin(), rows.end(), same) == rows.end()) return rows;
    std::vector<double> fingerprints(queries.count), waves(queries.dim);
    for (int64_t d = 0; d < queries.dim; ++d) waves[d] = std::cos(double(d + 1));
    for (int64_t row = 0; row < queries.count; ++row)
        for (int64_t d = 0; d < queries.dim; ++d)
            fingerprints[row] += queries[row][d] * waves[d];
    std::sort(rows.begin(), rows.end(), [&](int64_t a, int64_t b) {
        if (labels[a] != labels[b]) return labels[a] < labels[b];
        if (fingerprints[a] != fingerprints[b]) return fingerprints[a] < fingerprints[b];
        return a < b;
    });
    return rows;
}

/// (K + sum of rows) / |K + sum of rows|, in doubles; the key as it is if they cancel.
void average(float* key, const std::vector<double>& sum, double shortest) {
    double squares = 0;
    for (size_t d = 0; d < sum.size(); ++d) squares += (key[d] + sum[d]) * (key[d] + sum[d]);
    const double length = std::sqrt(squares);
    if (!(length > shortest)) return;
    for (size_t d = 0; d < sum.size(); ++d) key[d] = float((key[d] + sum[d]) / length);
}

}  // namespace

extern "C" void rarememory_noise(uint64_t state, int64_t count, double* numbers) {
    for (int64_t i = 0; i < count; ++i) numbers[i] = noise(state, i);
}

/// Merges a block of slots into the `count` to give up first: empty slots, then the gladder, then
/// the lower. `chosen` begins as EMPTY.
extern "C" void rarememory_evict(const double* priorities, const int64_t* values, int64_t first,
                                   int64_t size, const int64_t* keep, int64_t kept, int64_t count,
                                   double* chosen_priorities, int64_t* chosen) {
    EvictionList best(keep, kept, count);
    best.begin_with(chosen_priorities, chosen);
    const double most = std::numeric_limits<double>::max();
    for (int64_t i = 0; i < size && !best.done(); ++i) {
        if (values[i] == EMPTY) best.offer(INFINITE, first + i);
        else if (std::isnan(priorities[i])) best.offer(0.0, first + i);
        else best.offer(std::clamp(priorities[i], -most, most), first + i);
    }
    best.end_with(chosen_priorities, chosen);
}

/// The same for priority = age_weight * age + noise_weight * noise, in one pass: noise is drawn
/// only where it could make a slot one of them, and a block is passed over whose oldest slot is too
/// young for that.
extern "C" void rarememory_evict_oldest(const int64_t* values, const int64_t* written,
                                          int64_t clock, uint64_t state, double age_weight,
                                          double noise_weight, int64_t size, const int64_t* keep,
                                          int64_t kept, int64_t count, int64_t* chosen) {
    EvictionList best(keep, kept, count);
    const double reach = std::abs(noise_weight);
    auto weighted_age = [&](int64_t when) { return product(age_weight, double(clock - when)); };
    for (int64_t first = 0; first < size && !best.done(); first += AGES) {
        const int64_t end = std::min(first + AGES, size);
        int64_t oldest = std::numeric_limits<int64_t>::max(), holes = age_weight < 0;
        for (int64_t slot = first; slot < end; ++slot) {
            oldest = std::min(oldest, written[slot]);
            holes |= int64_t(values[slot] == EMPTY);
        }
        // Rounding keeps the order of ages, so none of the others reaches it either.
        if (!holes && weighted_age(oldest) + reach < best.least()) continue;
        for (int64_t slot = first; slot < end; ++slot) {
            const double age = weighted_age(written[slot]);
            if (values[slot] == EMPTY) best.offer(INFINITE, slot);
            else if (age + reach >= best.least())
                best.offer(age + product(noise_weight, noise(state, slot)), slot);
        }
    }
    best.end_with(nullptr, chosen);
}

/// Writes rows as one set, and says into which slots and over which values (updates.py).
extern "C" void rarememory_write(float* keys, int64_t dim, int64_t* values, int64_t* written,
                                 int64_t* clock, const float* query_numbers, const int64_t* labels,
                                 int64_t batch, const int64_t* nearest, const bool* averaged,
                                 const bool* inserted, const int64_t* free, int64_t free_count,
                                 double shortest, int64_t* slots, int64_t* overwritten) {
    const Rows queries{query_numbers, batch, dim};
    const std::vector<int64_t> turn = own_order(queries, labels);
    int64_t taken = 0;
    std::vector<std::pair<int64_t, int64_t>> into;  // slot and row, the rows of a slot in their turn
    for (int64_t row : turn) {
        slots[row] = averaged[row] ? nearest[row] : EMPTY;
        overwritten[row] = EMPTY;
        if (averaged[row]) into.emplace_back(slots[row], row);
        if (!inserted[row] || taken == free_count || free[taken] == EMPTY) continue;
        slots[row] = free[taken++];
        overwritten[row] = values[slots[row]];
        std::copy_n(queries[row], dim, keys + slots[row] * dim);
    }
    std::stable_sort(into.begin(), into.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<double> sum;
    for (size_t i = 0; i < into.size();) {
        const int64_t slot = into[i].first;
        sum.assign(dim, 0.0);
        for (; i < into.size() && into[i].first == slot; ++i)
            for (int64_t d = 0; d < dim; ++d) sum[d] += queries[into[i].second][d];
        average(keys + slot * dim, sum, shortest);
    }
    const int64_t now = *clock + 1;
    for (int64_t row = 0; row < batch; ++row) {
        if (slots[row] == EMPTY) continue;
        values[slots[row]] = labels[row];
        written[slots[row]] = now;
        *clock = now;
    }
}

/// A whole write of rows whose nearest slots are known, `step` apart, by a policy that averages all
/// hits or none. Returns 0; or UNSAFE, and nothing is written, where a row has a label, a slot or
/// numbers that are none.
extern "C" int64_t rarememory_write_at_once(float* keys, int64_t size, int64_t dim,
                                            int64_t* values, int64_t* written, int64_t* clock,
                                            const int64_t* seed, const float* queries,
                                            const int64_t* labels, int64_t batch,
                                            const int64_t* nearest, int64_t step, int averages,
                                            double age_weight, double noise_weight,
                                            double shortest, int64_t* slots, bool* hits,
                                            int64_t* overwritten) {
    std::vector<int64_t> near(batch), keep, free;
    std::unique_ptr<bool[]> averaged(new bool[batch]), inserted(new bool[batch]);
    for (int64_t row = 0; row < batch; ++row) {
        const float* query = queries + row * dim;
        const int64_t slot = near[row] = nearest[row * step];
        if (!is_writable(query, dim, labels[row], slot, size)) return UNSAFE;
        hits[row] = slot != EMPTY && values[slot] == labels[row];
        averaged[row] = averages && hits[row];
        inserted[row] = !averaged[row];
        if (averaged[row]) keep.push_back(slot);
    }
    if (int64_t(keep.size()) < batch) {
        free.assign(std::min(batch, size), EMPTY);
        const uint64_t state = uint64_t(*seed) + (uint64_t(*clock) * size + 1) * GAMMA;
        rarememory_evict_oldest(values, written, *clock, state, age_weight, noise_weight, size,
                                keep.data(), keep.size(), free.size(), free.data());
    }
    rarememory_write(keys, dim, values, written, clock, queries, labels, batch, near.data(),
                     averaged.get(), inserted.get(), free.data(), free.size(), shortest, slots,
                     overwritten);
    return 0;
}
