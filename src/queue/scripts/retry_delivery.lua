-- Records a failed attempt of a webhook delivery, unless it was removed. ARGV: the outbox, its name, its
-- attempts, and when the next one is due.
-- Returns 1, or 0 if it was removed.
local outbox, name = P .. ARGV[2], ARGV[3]
if not redis.call('ZSCORE', outbox, name) then return 0 end
redis.call('HSET', tries, name, ARGV[4])
redis.call('ZADD', outbox, 'XX', ARGV[5], name)
return 1
