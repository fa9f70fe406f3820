/* Rounding, registers, rescales and output stages of a fixed-point program, in 64-bit integers. */
#ifndef FIXED_POINT_H
#define FIXED_POINT_H
#include <math.h>
#include <stdint.h>

#include "reader.h"

enum { FLOOR, TRUNCATE, HALF_UP, HALF_DOWN, HALF_AWAY, HALF_EVEN };
enum { MULTIPLIER_SHIFT, SHIFT, IN_FLOAT32, IN_FLOAT64 };
#define BEYOND ((int64_t)1 << 62) /* every clamp has long been reached */
enum { EXACT, BELOW_HALF, AT_HALF, ABOVE_HALF };
static int64_t rounded(int negative, uint64_t quotient, int part, int rounding) {
  int tie[] = {0, 0, !negative, negative, 1, quotient & 1}; /* by rule: whether a tie goes away from zero */
  int up = part == ABOVE_HALF || (part == AT_HALF && tie[rounding]);
  if (rounding == FLOOR) up = negative && part != EXACT;
  if (rounding == TRUNCATE) up = 0;
  quotient += (uint64_t)up;
  return negative ? -(int64_t)quotient : (int64_t)quotient;
}
static uint64_t magnitude(int64_t x) { return x < 0 ? 0 - (uint64_t)x : (uint64_t)x; }
static int64_t scaled(int64_t x, int64_t multiplier, int drop, int rounding) { /* round(x * multiplier / 2^drop) */
  uint64_t a = magnitude(x), b = (uint64_t)multiplier;
  uint64_t low = (a & 0xffffffffu) * (b & 0xffffffffu), m1 = (a >> 32) * (b & 0xffffffffu) + (low >> 32);
  uint64_t m2 = (a & 0xffffffffu) * (b >> 32) + (m1 & 0xffffffffu);
  uint64_t hi = (a >> 32) * (b >> 32) + (m1 >> 32) + (m2 >> 32), lo = m2 << 32 | (low & 0xffffffffu);
  if (!hi && !lo) return 0;
  for (; drop < 0 && !hi && lo < (uint64_t)BEYOND; drop++) lo <<= 1;
  int half = 0, rest = 0; /* the last bit dropped, and whether any was set before it */
  for (; drop > 0 && (hi || lo || half); drop--) {
    rest |= half, half = lo & 1;
    lo = lo >> 1 | hi << 63, hi >>= 1;
  }
  if (hi || lo >= (uint64_t)BEYOND) return x < 0 ? -BEYOND : BEYOND;
  if (drop > 0) rest = 1, half = 0; /* nothing but zeros was left to drop */
  return rounded(x < 0, lo, half ? (rest ? ABOVE_HALF : AT_HALF) : rest ? BELOW_HALF : EXACT, rounding);
}
static int64_t divided(int64_t x, uint64_t n, int rounding) {
  uint64_t a = magnitude(x), rest = a % n;
  int part = !rest ? EXACT : 2 * rest < n ? BELOW_HALF : 2 * rest == n ? AT_HALF : ABOVE_HALF;
  return rounded(x < 0, a / n, part, rounding);
}
static int64_t rounded_real(double x, int rounding) {
  double whole = floor(fabs(x)), fraction = fabs(x) - whole;
  if (whole >= (double)BEYOND) return x < 0 ? -BEYOND : BEYOND;
  int part = fraction == 0 ? EXACT : fraction < 0.5 ? BELOW_HALF : fraction == 0.5 ? AT_HALF : ABOVE_HALF;
  return rounded(x < 0, (uint64_t)whole, part, rounding);
}
static int64_t saturated(int64_t x, int width) {
  if (width == 0 || width >= 64) return x;
  int64_t high = ((int64_t)1 << (width - 1)) - 1, low = -high - 1;
  return x < low ? low : x > high ? high : x;
}
static int64_t wrapped(int64_t x, int width) {
  if (width >= 64) return x;
  uint64_t sign = (uint64_t)1 << (width - 1), kept = (uint64_t)x & (sign * 2 - 1);
  return (int64_t)((kept ^ sign) - sign);
}

/* ---- the schema's Rescale and OutputStage ---- */
static double real_at(At vector, int i) {
  union { uint64_t raw; double value; } real = {bits(item(vector, i, 8), 8)};
  return real.value;
}
static int64_t rescale(At r, int64_t x, int channel) {
  if (!r) return x;
  int kind = byte_of(r, 0), stages = length(child(r, 2));
  At stage = item(child(r, 2), 0, 2), multipliers = child(r, 3), reals = child(r, 5);
  if (kind == IN_FLOAT32 || kind == IN_FLOAT64) {
    double real = real_at(reals, length(reals) == 1 ? 0 : channel);
    return rounded_real(kind == IN_FLOAT32 ? (double)((float)x * (float)real) : (double)x * real, stage[2 * stages - 1]);
  }
  int i = length(multipliers) == 1 ? 0 : channel, shift = (int)integer(item(child(r, 4), i, 2), 2);
  int64_t multiplier = integer(item(multipliers, i, 8), 8);
  int left = byte_of(r, 1) + shift;
  if (stages > 1 && shift < 0) {
    x = wrapped((int64_t)((uint64_t)x << (-shift % 32)), 32);
    left -= shift;
  }
  for (int s = 0; s < stages; s++, multiplier = 1) {
    int drop = (int8_t)stage[2 * s];
    if (drop < 0 || drop > left) drop = left;
    x = scaled(x, multiplier, drop, stage[2 * s + 1]);
    left -= drop;
  }
  return x;
}
static int64_t output(At stage, int64_t x, int channel) {
  int64_t y = rescale(child(stage, 0), x, channel) + scalar(stage, 1, 4);
  int64_t low = scalar(stage, 2, 4), high = scalar(stage, 3, 4);
  return y < low ? low : y > high ? high : y;
}

#endif
