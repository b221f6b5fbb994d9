# Defines nlohmann_json::nlohmann_json, the header-only JSON parser. Taken, in this order, from
#   1. a CMake package, such as Debian's nlohmann-json3-dev;
#   2. a folder with nlohmann/json.hpp, such as the one of PyPI's wheel `nlohmann-json`: NLOHMANN_JSON_ROOT;
#   3. the release's archive, downloaded and checked against its SHA-256.
find_package(nlohmann_json 3.10 QUIET)
if(NOT TARGET nlohmann_json::nlohmann_json)
  find_path(NLOHMANN_JSON_INCLUDE nlohmann/json.hpp HINTS ${NLOHMANN_JSON_ROOT} PATH_SUFFIXES include)
  if(NLOHMANN_JSON_INCLUDE)
    add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED)
    target_include_directories(nlohmann_json::nlohmann_json INTERFACE ${NLOHMANN_JSON_INCLUDE})
  else()
    message(STATUS "clouds: nlohmann_json was not found and is downloaded; without a network install nlohmann-json3-dev, "
                   "or `pip install nlohmann-json` and set NLOHMANN_JSON_ROOT (docs/guides/cpp.md)")
    include(FetchContent)
    FetchContent_Declare(nlohmann_json
      URL https://github.com/nlohmann/json/releases/download/v3.12.0/json.tar.xz
      URL_HASH SHA256=42f6e95cad6ec532fd372391373363b62a14af6d771056dbfc86160e6dfff7aa)
    FetchContent_MakeAvailable(nlohmann_json)
  endif()
endif()
