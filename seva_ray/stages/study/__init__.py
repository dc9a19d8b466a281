"""A study: many points (settings of SeVa) are trained and scored, and a page compares them.

Files: `driver` runs a study from start to page; `sweep` gives its points to Ray Tune; `trial` is what Tune runs for a
point; `study_server` does the trials' work, with `generation_queue`, `worker_groups`, `resource_queue` and
`named_locks`; `cluster_check` says what each part of a study requests; `study_results`, `study_statistics` and `cost`
read what the study left.

Why Tune's own resources are not used. Tune reserves resources for a trial as long as the trial lives, and assumes that
each trial does its own work in its own processes. Neither is true here:
- Trials share their work. The clean responses and those in each view are the same for all points that use the view, so
  one pool of engines makes them once (5 passes over the prompts instead of 24, docs/LOG.md). The pool also answers the
  benchmarks for all policies: changing an engine's weights takes 0.04 s, starting an engine takes 15 s.
- One group of training workers trains the policies of several trials. Starting a group takes 25 to 60 s, and training
  a small policy takes one or two.
- A trial alternates between engines and training workers. With resources of its own it would hold GPUs for both and
  use one of them at a time.
- Two trials that each reserve some of what they need can wait for each other for ever.
So a trial requests nothing (`cpu: 0, memory: 1`, the least that Tune accepts). It is one call to the study server, and
Tune keeps what it is good at: it proposes points, stops poor ones early, and saves and restores its state. One study
server divides the cluster. Two studies on one cluster do not know of each other.

How a request travels. Threads are named here as in the comments of the files:
1. A trial (a process of Tune) calls `StudyServer.measure`. Ray runs each call in a thread of the server's process: the
   trial's thread.
2. It starts a seed thread for each training seed. That asks `GenerationQueue` for the responses and waits.
3. The generation thread, of which there is one, collects the requests of three seconds, holds the resources of a pool
   of engines, generates everything in one call, and answers each request as soon as its last response is written.
4. The seed thread makes the pairs. The trial's thread then asks `WorkerGroups` to train. The thread that gets the
   resources of a group trains a share of everything that waits, for other trials too. The group scores the pairs by
   the reference before it trains on them.
5. The trial's thread asks `GenerationQueue` for the answers to the benchmarks, scores them, and returns the gain.
After the search the driver makes a second server in its own process and measures every point again: by then everything
exists, so it is only read.

Which lock protects what:
- `ResourceQueue.changed` protects the free amounts and the queue of requests. It is never held during work.
- `WorkerGroups.changing` protects the list of waiting trainings. `ResourceQueue.changed` may be taken inside it, and
  never the other way round.
- `NamedLocks` protect one artifact each while it is made. A thread that has waited looks again whether it exists.
- `StudyServer.reporting` protects the count of measured points.

What a change must keep:
- Resources are taken only by `ResourceQueue.hold`, all of a request at once. A thread that holds resources never waits
  for a response or for another training: those need resources too.
- Locks of pairs and scores are taken before resources. Locks of policies are taken after them, and only by threads that
  hold a group's resources. Several names are taken in sorted order. Two groups that need the same reference do not
  make it twice: `train_all` owns it in the store until it is complete.
- Every request is answered, by a result or by an error; otherwise its trial waits for ever. If a batch fails, each of
  its requests is tried alone, so that one bad point harms no other.
- An artifact's name follows from its recipe. That is why restarts, other trials and other studies find it.
"""
