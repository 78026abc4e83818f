/* An extension whose process writes when its test is over: launch(milliseconds). */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(launch);
PGDLLEXPORT void write_later(Datum milliseconds);

void
write_later(Datum milliseconds)
{
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection("app", "postgres", 0);
	WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, DatumGetInt32(milliseconds), 0);
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_execute("delete from item", false, 0);
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

Datum
launch(PG_FUNCTION_ARGS)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_name = "write_later",
		.bgw_type = "write_later",
		.bgw_library_name = LIBRARY,
		.bgw_function_name = "write_later",
		.bgw_main_arg = Int32GetDatum(PG_GETARG_INT32(0)),
	};

	PG_RETURN_BOOL(RegisterDynamicBackgroundWorker(&worker, NULL));
}
