// Coding the keys.

#include <cmath>
#include <cstring>

#include "codes.h"
#include "parallel.h"

using namespace rarememory;

namespace {

typedef uint8_t Bytes __attribute__((vector_size(LANES)));

/// Codes one key after the other, each padded with zeros to whole vectors.
class Coder {
   public:
    Coder(Rows keys, uint8_t* bytes, float* steps, float* off, uint8_t* rows)
        : keys_(keys), bytes_(bytes), steps_(steps), off_(off), rows_(rows),
          key_((keys.dim + LANES - 1) / LANES * LANES), codes_(key_.size()) {}

    void code(int64_t slot) {
        std::copy_n(keys_[slot], keys_.dim, key_.begin());
        const float largest = largest_of(key_);
        const bool held = largest <= LONGEST;
        // A step too small to divide by is as good as none.
        const float step = held && largest > 1e-30f ? largest / CODES : 0;
        const float off = held ? coded_off_by(step) : FAR;
        steps_[slot] = off < FAR ? step : 0;
        off_[slot] = off;
        const int64_t quads = (keys_.dim + 3) / 4;
        uint8_t* to = bytes_ + (slot / LANES * quads * LANES + slot % LANES) * 4;
        for (int64_t quad = 0; quad < quads; ++quad)
            std::memcpy(to + quad * LANES * 4, &codes_[quad * 4], 4);
        if (rows_) std::copy_n(codes_.begin(), keys_.dim, rows_ + slot * Codes::row_size(keys_.dim));
    }

   private:
    Rows keys_;
    uint8_t* bytes_;
    float *steps_, *off_;
    uint8_t* rows_;
    std::vector<float> key_;
    std::vector<uint8_t> codes_;

    static float largest_of(const std::vector<float>& numbers) {
        Floats largest = {};
        for (size_t d = 0; d < numbers.size(); d += LANES) {
            const Floats some = load(&numbers[d]);
            largest = greater(greater(some, -some), largest);
        }
        float of_all = 0;
        for (int lane = 0; lane < LANES; ++lane) of_all = std::max(of_all, largest[lane]);
        return of_all;
    }

    /// Codes a key, and says what length the difference has at most; FAR if the codes are too long.
    float coded_off_by(float step) {
        constexpr float WHOLE = 0x1.8p23f;  // whoever adds it and takes it away again has rounded
        const float per_step = step > 0 ? 1 / step : 0;
        Floats squares = {}, squares_off = {};
        for (size_t d = 0; d < key_.size(); d += LANES) {
            const Floats some = load(&key_[d]);
            const Floats whole = some * per_step + WHOLE - WHOLE;
            const Floats coded = whole * step, difference = some - coded;
            squares += coded * coded;
            squares_off += difference * difference;
            const Bytes codes = __builtin_convertvector(
                __builtin_convertvector(whole, Ints) + ZERO, Bytes);
            std::memcpy(&codes_[d], &codes, LANES);
        }
        // In float32, and so a little more than was summed.
        const float slack = 1 + keys_.dim * std::numeric_limits<float>::epsilon();
        const float length = std::sqrt(sum_of(squares)) * slack;
        // Not so either where a number is none.
        const bool short_enough = length <= LONGEST;
        return short_enough ? std::sqrt(sum_of(squares_off)) * slack + 0x1p-22f : FAR;
    }

    static float sum_of(Floats numbers) {
        float sum = 0;
        for (int lane = 0; lane < LANES; ++lane) sum += numbers[lane];
        return sum;
    }
};

}  // namespace

/// Codes the keys of the slots named, or with none named of all; EMPTY is none. Rows may be none.
extern "C" void rarememory_code(const float* keys, int64_t slots, int64_t dim,
                                const int64_t* named, int64_t count, uint8_t* bytes, float* steps,
                                float* off, uint8_t* rows, int threads) {
    // A slot may be named twice, and two threads must not meet in it.
    threads = named ? 1 : worth(threads, count, 1, 4 * dim);
    in_parts(count, threads, [&](int64_t begin, int64_t end) {
        Coder coder({keys, slots, dim}, bytes, steps, off, rows);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t slot = named ? named[i] : i;
            if (slot != EMPTY) coder.code(slot);
        }
    });
}
