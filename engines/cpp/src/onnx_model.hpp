// Where an ONNX file takes its weights from, asked before a runtime reads it.
#pragma once

#include <filesystem>
#include <istream>
#include <set>
#include <string>

namespace clouds {

// Refuses an ONNX file that takes weights from anywhere but files beside it that `listed` names: from other places on
// the disk, or from the process's own memory. Reads the file's structure only, never its weights. Throws Error, also where
// the file is no ONNX file.
void check_graph(const std::filesystem::path& model, const std::set<std::string>& listed);
void check_graph(std::istream& model, const std::string& where, const std::set<std::string>& listed);

}  // namespace clouds
