// The slots whose values are among some labels.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels.h"

/// The labels are ascending.
extern "C" void rarememory_mark(const int64_t* values, int64_t slots, const int64_t* labels,
                                int64_t count, bool* marks) {
    constexpr uint64_t WIDEST = 1 << 16;  // table of labels
    if (count == 0) {
        std::fill_n(marks, slots, false);
        return;
    }
    const int64_t lowest = labels[0];
    const uint64_t width = uint64_t(labels[count - 1]) - uint64_t(lowest) + 1;
    if (width == 0 || width > WIDEST) {
        for (int64_t slot = 0; slot < slots; ++slot)
            marks[slot] = std::binary_search(labels, labels + count, values[slot]);
        return;
    }
    // What is beyond the last label has a place of its own, so that there is no branch.
    std::vector<uint8_t> table(width + 1);
    for (int64_t label = 0; label < count; ++label) table[labels[label] - lowest] = 1;
    for (int64_t slot = 0; slot < slots; ++slot)
        marks[slot] = table[std::min(uint64_t(values[slot]) - uint64_t(lowest), width)];
}
