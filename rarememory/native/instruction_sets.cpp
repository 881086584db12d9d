// The instruction sets that the library was compiled for and that this processor has.

/// Their names, the best one first, with a space after each.
extern "C" const char* rarememory_instruction_sets() {
    static char names[64];
    char* end = names;
    auto add = [&](const char* name, bool is_there) {
        for (; is_there && *name; ++name) *end++ = *name;
        if (is_there) *end++ = ' ';
        *end = 0;
    };
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
#ifdef HAS_AVX512_VNNI
    add("avx512_vnni", v4 && __builtin_cpu_supports("avx512vnni"));
#endif
#ifdef HAS_AVX512
    add("avx512", v4);
#endif
#ifdef HAS_AVX_VNNI
    add("avx_vnni", v3 && __builtin_cpu_supports("avxvnni"));
#endif
#ifdef HAS_AVX2
    add("avx2", v3);
#endif
#endif
    add("baseline", true);
    return names;
}
