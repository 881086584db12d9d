// The slots that may be found: of those that hold something all, those with some labels, or those of
// a mask.

#include <algorithm>
#include <vector>

#include "calls.h"
#include "parallel.h"
#include "vectors.h"

using namespace rarememory;

namespace {

/// Labels in whatever form a value is quickly looked for.
class Labels {
   public:
    Labels(const int64_t* labels, int64_t count) {
        // An empty slot has the value EMPTY, which is no label.
        std::copy_if(labels, labels + count, std::back_inserter(sorted_),
                     [](int64_t label) { return label != EMPTY; });
        std::sort(sorted_.begin(), sorted_.end());
        if (sorted_.empty()) return;
        width_ = uint64_t(sorted_.back()) - lowest() + 1;
        if (width_ == 0 || width_ > WIDEST) return;
        // What is beyond the last label has a place of its own, so that there is no branch.
        table_.resize(width_ + 1);
        for (int64_t label : sorted_) {
            table_[uint64_t(label) - lowest()] = 1;
            bits_ |= uint64_t(1) << (uint64_t(label) - lowest()) % 64;
        }
    }

    void mark(const int64_t* values, int64_t count, bool* marks) const {
        if (sorted_.empty()) {
            std::fill_n(marks, count, false);
        } else if (table_.empty()) {
            for (int64_t i = 0; i < count; ++i)
                marks[i] = std::binary_search(sorted_.begin(), sorted_.end(), values[i]);
        } else if (width_ <= 64 && LANES > 4) {
            mark_near(values, count, marks);
        } else {
            for (int64_t i = 0; i < count; ++i)
                marks[i] = table_[std::min(uint64_t(values[i]) - lowest(), width_)];
        }
    }

   private:
    static constexpr uint64_t WIDEST = 1 << 16;  // table of labels
    std::vector<int64_t> sorted_;
    std::vector<uint8_t> table_;
    uint64_t width_ = 0, bits_ = 0;

    uint64_t lowest() const { return uint64_t(sorted_.front()); }

    /// Of labels near to each other: one word tells, and the loop becomes one over vectors, where
    /// there are some that shift each lane by a number of its own.
    void mark_near(const int64_t* __restrict values, int64_t count, bool* __restrict marks) const {
        const uint64_t first = lowest(), bits = bits_;
        uint8_t* __restrict to = (uint8_t*)marks;
        for (int64_t i = 0; i < count; ++i) {
            const uint64_t place = uint64_t(values[i]) - first;
            to[i] = place < 64 ? bits >> (place & 63) & 1 : 0;
        }
    }
};

}  // namespace

/// There are labels, or a mask, or neither; a count below 0 is of no labels, and 0 of an empty list.
extern "C" void rarememory_mark(const int64_t* values, int64_t slots, const int64_t* labels,
                                int64_t count, const bool* mask, int threads, bool* marks) {
    const Labels some(labels, std::max<int64_t>(count, 0));
    threads = worth(threads, 1, slots, 4);
    in_parts(slots, threads, [&](int64_t begin, int64_t end) {
        if (count >= 0) some.mark(values + begin, end - begin, marks + begin);
        else for (int64_t i = begin; i < end; ++i) marks[i] = values[i] != EMPTY;
        if (mask) for (int64_t i = begin; i < end; ++i) marks[i] &= mask[i];
    });
}
