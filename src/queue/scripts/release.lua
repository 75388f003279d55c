-- Returns the job of a worker that shuts down to its old place in the queue, without counting the
-- attempt. ARGV: id, epoch.
-- Returns RELEASED or LOST.
local id, epoch = ARGV[2], ARGV[3]
if redis.call('ZREM', leases, id .. ':' .. epoch) == 0 then return { 'LOST' } end
local s = redis.call('HMGET', status(id), 'rank', 'verify')
local ms = event(id, 'queued')
-- To verify is no attempt.
if s[2] ~= '1' then redis.call('HINCRBY', status(id), 'attempt', -1) end
redis.call('HSET', status(id), 'state', 'queued', 'queued', ms, 'progress', 0)
redis.call('ZADD', pending, s[1], id)
ring(id)
return { 'RELEASED' }
