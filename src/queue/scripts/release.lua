-- Returns the task of a worker that shuts down to its old place in the queue, without counting the
-- attempt. ARGV: task, epoch, ms until it is ready (0: at its old place in the queue at once).
-- Returns RELEASED or LOST.
local id, epoch, delay = ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('ZREM', leases, id .. ':' .. epoch) == 0 then return { 'LOST' } end
give_back_on_error(id, epoch)
local s = redis.call('HMGET', status(id), 'rank', 'verify', 'class')
local class, _, part = s[3] or '', job_and_part(id)
local now = part and clock() or by_clock(event(id, 'queued'))
-- To verify is no attempt.
if s[2] ~= '1' then
  redis.call('HINCRBY', status(id), 'attempt', -1)
  on_error(function() redis.pcall('HINCRBY', status(id), 'attempt', 1) end)
end
redis.call('HSET', status(id), 'state', 'queued', 'queued', delay == 0 and now or '', 'progress', 0)
if delay == 0 then
  enqueue(class, s[1], id)
else
  redis.call('HSET', status(id), 'retry', now + delay)
  redis.call('ZADD', scheduled, now + delay, id)
end
if not part then clean_up_attempt(id, epoch, now) end
ring(class, id)
return { 'RELEASED' }
