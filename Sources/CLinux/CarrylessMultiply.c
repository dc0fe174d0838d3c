#include "CLinux.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

bool pv_has_carryless_multiply(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("ssse3");
}

// A register holds 16 bytes of the message as a polynomial over GF(2): the first bit is the coefficient of x^127.
// To put D bits between it and what follows, its halves are multiplied by x^(D+64) and x^D, modulo the CRC's polynomial
// x^16 + 0x8BB7: 64 + 16 bits, which fit into 128.
__attribute__((target("pclmul,ssse3"))) static inline __m128i fold(__m128i value, __m128i powers, __m128i next) {
  __m128i high = _mm_clmulepi64_si128(value, powers, 0x11);
  __m128i low = _mm_clmulepi64_si128(value, powers, 0x00);
  return _mm_xor_si128(_mm_xor_si128(high, low), next);
}

__attribute__((target("pclmul,ssse3"))) static inline __m128i load(const uint8_t *bytes) {
  const __m128i reverse = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)bytes), reverse);
}

__attribute__((target("pclmul,ssse3"))) size_t pv_crc16_fold(
    uint16_t seed, const void *message, size_t count, uint8_t rest[16]) {
  const __m128i by512 = _mm_set_epi64x(0xdd31, 0x1069);  // x^576, x^512
  const __m128i by128 = _mm_set_epi64x(0x1faa, 0xa010);  // x^192, x^128
  const __m128i reverse = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const uint8_t *bytes = message;
  size_t used = count & ~(size_t)63;
  if (used == 0) return 0;
  // Going on from a CRC is starting at 0 with that CRC added to the first 16 bits.
  __m128i a = _mm_xor_si128(load(bytes), _mm_set_epi64x((int64_t)((uint64_t)seed << 48), 0));
  __m128i b = load(bytes + 16), c = load(bytes + 32), d = load(bytes + 48);
  for (size_t at = 64; at < used; at += 64) {
    a = fold(a, by512, load(bytes + at));
    b = fold(b, by512, load(bytes + at + 16));
    c = fold(c, by512, load(bytes + at + 32));
    d = fold(d, by512, load(bytes + at + 48));
  }
  a = fold(fold(fold(a, by128, b), by128, c), by128, d);
  _mm_storeu_si128((__m128i *)rest, _mm_shuffle_epi8(a, reverse));
  return used;
}

#else

bool pv_has_carryless_multiply(void) { return false; }

size_t pv_crc16_fold(uint16_t seed, const void *message, size_t count, uint8_t rest[16]) {
  (void)seed, (void)message, (void)count, (void)rest;
  return 0;
}

#endif
