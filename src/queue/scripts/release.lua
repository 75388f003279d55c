-- Returns the job of a worker that shuts down to its old place in the queue, without counting the
-- attempt. ARGV: id, epoch.
-- Returns RELEASED or LOST.
local id, epoch = ARGV[2], ARGV[3]
if redis.call('ZREM', leases, id .. ':' .. epoch) == 0 then return { 'LOST' } end
local rank = redis.call('HGET', status(id), 'rank')
local ms = event(id, 'queued')
redis.call('HINCRBY', status(id), 'attempt', -1)
redis.call('HSET', status(id), 'state', 'queued', 'queued', ms, 'progress', 0)
redis.call('ZADD', pending, rank, id)
ring(id)
return { 'RELEASED' }
