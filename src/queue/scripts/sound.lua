-- Tells how many segments of the sound of a split job are in storage, while the sound is encoded. ARGV: task, epoch,
-- epoch of the attempt that split the job, the number of segments, and the hook flag of the job.
-- Returns OK or LOST.
local task, epoch, split, segments, hook = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local id = job_and_part(task)
if not redis.call('ZSCORE', leases, task .. ':' .. epoch) or not waits_for_parts(id, split) then return { 'LOST' } end
local before = tonumber(redis.call('HGET', status(id), 'sound')) or 0
-- An attempt after a lost one begins anew, but what was stored is there.
if tonumber(segments) > before then redis.call('HSET', status(id), 'sound', segments) end
play_if_ready(id, split, hook)
return { 'OK' }
