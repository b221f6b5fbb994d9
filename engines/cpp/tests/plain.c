/* The C API from C: labels a grey image with the bundle given, once at once and once through the queue. */
#include <clouds/clouds.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void done(void* context, clouds_status status, const char* message, const char* hint) {
  if (status != CLOUDS_OK) fprintf(stderr, "%s: %s\n", message, hint);
  *(int*)context = (int)status;
}

int main(int argc, char** argv) {
  clouds_segmenter* segmenter = NULL;
  clouds_image image = {NULL, 0, 0, 0, CLOUDS_RGB};
  clouds_map first = {NULL, 0, 0, 0}, second = {NULL, 0, 0, 0};
  int status = -1, equal;
  size_t pixels;
  if (argc != 2) return 2;
  if (clouds_segmenter_open(argv[1], NULL, &segmenter) != CLOUDS_OK) {
    fprintf(stderr, "error: %s\n  fix: %s\n", clouds_message(), clouds_hint());
    return 1;
  }
  clouds_segmenter_size(segmenter, &image.height, &image.width);
  pixels = (size_t)image.height * (size_t)image.width;
  image.data = memset(malloc(3 * pixels), 128, 3 * pixels);
  first.height = second.height = image.height;
  first.width = second.width = image.width;
  first.data = malloc(pixels);
  second.data = malloc(pixels);
  if (clouds_segment(segmenter, &image, &first, NULL, 1) != CLOUDS_OK) return 1;
  if (clouds_submit(segmenter, &image, &second, NULL, done, &status) != CLOUDS_OK) return 1;
  clouds_segmenter_close(segmenter); /* waits */
  equal = memcmp(first.data, second.data, pixels) == 0;
  printf("clouds %s: %s\n", clouds_version(), status == CLOUDS_OK && equal ? "ok" : "FAILED");
  free((void*)image.data);
  free(first.data);
  free(second.data);
  return status == CLOUDS_OK && equal ? 0 : 1;
}
