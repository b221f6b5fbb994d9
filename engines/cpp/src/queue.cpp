#include "queue.hpp"

#include <algorithm>
#include <utility>

namespace clouds {

Queue::Queue(std::size_t workers, std::size_t room)
    : workers_(std::max<std::size_t>(workers, 1)), room_(std::max<std::size_t>(room, 1)) {}

Queue::~Queue() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  filled_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Queue::start() {
  while (threads_.size() < workers_) threads_.emplace_back([this] { work(); });
}

void Queue::put(Job job) {
  std::unique_lock lock(mutex_);
  start();
  emptied_.wait(lock, [&] { return jobs_.size() < room_; });
  jobs_.push_back(std::move(job));
  filled_.notify_one();
}

bool Queue::try_put(Job job) {
  const std::lock_guard lock(mutex_);
  start();
  if (jobs_.size() >= room_) return false;
  jobs_.push_back(std::move(job));
  filled_.notify_one();
  return true;
}

void Queue::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    filled_.wait(lock, [&] { return ended_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    emptied_.notify_one();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace clouds
