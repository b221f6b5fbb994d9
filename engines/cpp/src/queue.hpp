// A bounded queue of jobs for a few threads: a caller with more than fit waits.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace clouds {

class Queue {
 public:
  using Job = std::function<void()>;  // must not throw

  Queue(std::size_t workers, std::size_t room);
  ~Queue();  // does what was put in, then ends
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  void put(Job job);      // waits for room
  bool try_put(Job job);  // gives false where there is none

 private:
  void start();
  void work();

  const std::size_t workers_, room_;
  std::mutex mutex_;
  std::condition_variable filled_, emptied_;
  std::deque<Job> jobs_;
  std::vector<std::thread> threads_;
  bool ended_ = false;
};

}  // namespace clouds
