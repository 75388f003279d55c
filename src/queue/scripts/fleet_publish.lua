-- Stores the fleet's status and, for one-shot reconcilers, the state that the next one needs.
-- ARGV: holder, epoch, status, state (optional). Returns 1, or 0 if the caller no longer holds the lock.
if not holds_lock(ARGV[2], ARGV[3], clock()) then return 0 end
redis.call('SET', P .. 'fleet:status', ARGV[4])
if ARGV[5] then redis.call('SET', P .. 'fleet:memory', ARGV[5]) end
return 1
