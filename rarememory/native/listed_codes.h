// Codes of slots that do not lie side by side: only those of some slots are read, a row each.

#pragma once

#include "codes.h"
#include "squares.h"

namespace rarememory {

/// The codes of listed slots, for a query alone in their rows, and else brought into groups.
class ListedCodes {
   public:
    Codes of(const Codes& all, const int32_t* places, int64_t count, bool in_rows) {
        const int64_t padded = (count + 4 * LANES - 1) / (4 * LANES) * (4 * LANES);
        steps_.resize(padded);
        off_.resize(padded);
        for (int64_t i = 0; i < count; ++i) {
            steps_[i] = all.steps[places[i]];
            off_[i] = all.off[places[i]];
        }
        if (in_rows)
            return {nullptr, steps_.data(), off_.data(), count, all.dim, all.rows, places};
        numbers_.resize(padded * all.quads());
        const Codes rows{nullptr, nullptr, nullptr, count, all.dim, all.rows, places};
        for (int64_t first = 0; first < count; first += LANES) group(rows, first);
        return {(const uint8_t*)numbers_.data(), steps_.data(), off_.data(), count, all.dim};
    }

   private:
    std::vector<float> numbers_, steps_, off_;

    void group(const Codes& all, int64_t first) {
        const uint8_t* rows[LANES];
        all.rows_from(first, rows);
        const int64_t quads = all.quads();
        for (int64_t quad = 0; quad < quads; quad += LANES) {
            Floats square[LANES];
            for (int lane = 0; lane < LANES; ++lane)
                square[lane] = load((const float*)rows[lane] + quad);
            transpose(square);
            float* to = &numbers_[first * quads + quad * LANES];
            for (int64_t i = 0; i < std::min<int64_t>(LANES, quads - quad); ++i)
                store(to + i * LANES, square[i]);
        }
    }
};

/// The halves of a query as rows of codes lie: all first ones, and then all second ones.
inline std::vector<int32_t> halves_in_rows(const CodedQuery& query, int64_t dim) {
    const int64_t words = Codes::row_size(dim) / 4;
    std::vector<int32_t> halves(2 * words);
    for (size_t i = 0; i < query.halves.size(); ++i)
        halves[i % 2 * words + i / 2] = query.halves[i];
    return halves;
}

/// Products of LANES listed keys with a query.
template <bool BOTH>
inline Words multiply_rows(const Codes& codes, int64_t slot, const int32_t* halves) {
    const uint8_t* rows[LANES];
    codes.rows_from(slot, rows);
    const int64_t words = Codes::row_size(codes.dim) / 4;
    Words sums[LANES];
    for (int lane = 0; lane < LANES; ++lane) {
        Words first = {}, second = {};
        for (int64_t word = 0; word < codes.quads(); word += LANES) {
            const Words four = *(const UnalignedWords*)(rows[lane] + 4 * word);
            const Words high = *(const UnalignedWords*)(halves + word);
            const Words low = *(const UnalignedWords*)(halves + words + word);
            if (BOTH) first = add_products(first, four, high, false);
            second = BOTH ? add_products(second, four, low, true) : add_bytes(second, four, low);
        }
        sums[lane] = first * (BY_BYTES ? 256 : 1) + second;
    }
    return sums_of(sums);
}

}  // namespace rarememory
