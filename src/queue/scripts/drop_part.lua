-- Removes a claimed part for which its job does not wait. ARGV: task, epoch, epoch of the attempt that split the job.
local task, epoch, split = ARGV[2], ARGV[3], ARGV[4]
redis.call('ZREM', leases, task .. ':' .. epoch)
drop_stale_part(task, split)
return { 'DROPPED' }
