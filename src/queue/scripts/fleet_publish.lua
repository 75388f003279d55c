-- Stores the fleet's status and, for one-shot reconcilers, the state that the next one needs.
-- ARGV: fleet, holder, epoch, status, state (optional; of the fleet without a name). Returns 1, or 0 if the caller no longer holds the lock.
if not holds_lock(ARGV[2], ARGV[3], ARGV[4], clock()) then return 0 end
publish_fleet(ARGV[2], ARGV[5])
if ARGV[6] then redis.call('SET', P .. 'fleet:memory', ARGV[6]) end
return 1
