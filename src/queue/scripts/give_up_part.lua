-- Records that a part of a split job cannot be encoded by itself, and queues the job at once, to be encoded as a whole:
-- nobody needs the other parts. ARGV: task, epoch, report, epoch of the attempt that split the job.
-- Returns DONE or LOST.
local task, epoch, report, split = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local id, part = job_and_part(task)
if redis.call('ZREM', leases, task .. ':' .. epoch) == 0 then return { 'LOST' } end
on_error(function() redis.pcall('ZADD', leases, clock() + 30000, task .. ':' .. epoch) end)
local waits, _, rank, class = waits_for_parts(id, split)
if not waits then
  undo = {}
  drop_stale_part(task, split)
  return { 'LOST' }
end
local ms = event(id, 'queued')
redis.call('HSET', reports(id), part, report)
redis.call('HSET', status(id), 'state', 'queued', 'queued', ms, 'playable', '', 'segments', '', 'sound', '')
enqueue(class, rank, id)
-- The job is in the queue, whatever happens.
undo = {}
redis.call('SREM', split_jobs, id)
drop_open_parts(id)
ring(class, id)
return { 'DONE' }
