-- Publishes the fleet's status, and stores the state that a one-shot reconciler hands to the next one.
-- ARGV: holder, epoch, status, memory (may be omitted). Returns 1, or 0 if the caller no longer holds the lock.
if not holds_lock(ARGV[2], ARGV[3], clock()) then return 0 end
redis.call('SET', P .. 'fleet:status', ARGV[4])
if ARGV[5] then redis.call('SET', P .. 'fleet:memory', ARGV[5]) end
return 1
