/* Which symbols the library shows. */
#ifndef CLOUDS_API_H
#define CLOUDS_API_H

#if defined(_WIN32)
#if defined(CLOUDS_STATIC)
#define CLOUDS_API
#elif defined(CLOUDS_BUILDING)
#define CLOUDS_API __declspec(dllexport)
#else
#define CLOUDS_API __declspec(dllimport)
#endif
#else
#define CLOUDS_API __attribute__((visibility("default")))
#endif

#endif
