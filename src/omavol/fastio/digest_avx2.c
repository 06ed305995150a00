/* xxh3-128 compiled for AVX2: the only code that is not for every x86-64; digest.h decides at run time who may enter.
 *
 * The pragma comes before every header, so that xxhash.h takes its AVX2 kernel and all of it is inlined for AVX2 here.
 */
#pragma GCC target("avx2")

#include <xxhash.h>

#include "digest.h"

void oma_digest_avx2(const void *data, size_t length, unsigned char *out)
{
    XXH128_canonicalFromHash((XXH128_canonical_t *)out, XXH3_128bits(data, length));
}
