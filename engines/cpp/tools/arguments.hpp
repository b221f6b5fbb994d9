// Command lines: `--name value`, `--flag` and the rest.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "clouds/segmenter.hpp"

namespace arguments {

struct Arguments {
  std::map<std::string, std::string> values;
  std::vector<std::string> rest;
  bool has(const std::string& name) const { return values.count(name) != 0; }
  std::string get(const std::string& name, const std::string& otherwise = "") const {
    const auto found = values.find(name);
    return found == values.end() ? otherwise : found->second;
  }
};

inline Arguments parse(int argc, char** argv, const std::set<std::string>& with_value,
                       const std::set<std::string>& flags) {
  Arguments out;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind("--", 0) != 0) {
      out.rest.push_back(word);
    } else if (flags.count(word) != 0) {
      out.values[word] = "";
    } else if (with_value.count(word) != 0 && i + 1 < argc) {
      out.values[word] = argv[++i];
    } else {
      throw clouds::Error(with_value.count(word) != 0 ? word + " lacks its value" : "there is no option `" + word + "`",
                          "--help lists the options");
    }
  }
  return out;
}

inline std::size_t number(const std::string& name, const std::string& text) {
  char* end = nullptr;
  const unsigned long value = std::strtoul(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || text[0] == '-' || value > 4096) {
    throw clouds::Error(name + " `" + text + "` is no number", "give 1, 2, ...");
  }
  return value;
}

inline const std::set<std::string> kRunOptions = {"--backend", "--device", "--threads", "--precision", "--vocabulary"};
inline const char* const kRunHelp =
    "  --backend NAME     openvino, onnxruntime, tensorrt, tensorrt-rtx; default: the first built in\n"
    "  --device NAME      cpu, cuda or cuda:N, or what openvino calls another device\n"
    "  --threads N        threads of one inference\n"
    "  --precision NAME   fp32, or bf16 (openvino)\n"
    "  --vocabulary FILE  other classes, for bundles with the text head\n"
    "  --no-verify        do not compare the files with their sha256\n";

inline clouds::Options run_options(const Arguments& given) {
  clouds::Options out;
  out.backend = given.get("--backend");
  out.device = given.get("--device", "cpu");
  if (given.has("--threads")) out.threads = static_cast<int>(number("--threads", given.get("--threads")));
  out.precision = given.get("--precision", "fp32");
  out.vocabulary = given.get("--vocabulary");
  out.verify = !given.has("--no-verify");
  return out;
}

inline void warn(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
}

// Runs a program: an Error becomes two lines and exit code 2.
template <typename Main>
int guarded(Main main) {
  try {
    return main();
  } catch (const clouds::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.message().c_str());
    if (!error.hint().empty()) std::fprintf(stderr, "  fix: %s\n", error.hint().c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  }
  return 2;
}

}  // namespace arguments
